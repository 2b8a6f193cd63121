"""What to cite, as BibTeX."""

MOCO = (
    """@inproceedings{he2020moco,
  title  = {Momentum Contrast for Unsupervised Visual Representation Learning},
  author = {He, Kaiming and Fan, Haoqi and Wu, Yuxin and Xie, Saining and Girshick, Ross},
  booktitle = {CVPR},
  year   = {2020},
  eprint = {1911.05722},
  archivePrefix = {arXiv}
}""",
    """@misc{chen2020mocov2,
  title  = {Improved Baselines with Momentum Contrastive Learning},
  author = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  year   = {2020},
  eprint = {2003.04297},
  archivePrefix = {arXiv}
}""",
)
