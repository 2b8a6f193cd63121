"""What to cite, as BibTeX."""

GLOBAL_LOCAL = (
    """@inproceedings{chaitanya2020contrastive,
  title  = {Contrastive Learning of Global and Local Features for Medical Image Segmentation with Limited Annotations},
  author = {Chaitanya, Krishna and Erdil, Ertunc and Karani, Neerav and Konukoglu, Ender},
  booktitle = {NeurIPS},
  year   = {2020},
  eprint = {2006.10511},
  archivePrefix = {arXiv}
}""",
)

CONTRAST = (
    """@inproceedings{chen2020simclr,
  title  = {A Simple Framework for Contrastive Learning of Visual Representations},
  author = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle = {ICML},
  year   = {2020},
  eprint = {2002.05709},
  archivePrefix = {arXiv}
}""",
    """@inproceedings{zeng2021pcl,
  title  = {Positional Contrastive Learning for Volumetric Medical Image Segmentation},
  author = {Zeng, Dewen and Wu, Yawen and Hu, Xinrong and Xu, Xiaowei and
            Yuan, Haiyun and Huang, Meiping and Zhuang, Jian and Hu, Jingtong and Shi, Yiyu},
  booktitle = {MICCAI},
  year   = {2021},
  eprint = {2106.09157},
  archivePrefix = {arXiv}
}""",
)
