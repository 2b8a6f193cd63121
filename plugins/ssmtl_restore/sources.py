"""What to cite, as BibTeX."""

INPAINT = (
    r"""@inproceedings{pathak2016context,
  title  = {Context Encoders: Feature Learning by Inpainting},
  author = {Pathak, Deepak and Kr{\"a}henb{\"u}hl, Philipp and Donahue, Jeff and Darrell, Trevor and Efros, Alexei A.},
  booktitle = {CVPR},
  year   = {2016},
  eprint = {1604.07379},
  archivePrefix = {arXiv}
}""",
    r"""@inproceedings{he2022mae,
  title  = {Masked Autoencoders Are Scalable Vision Learners},
  author = {He, Kaiming and Chen, Xinlei and Xie, Saining and Li, Yanghao and Doll{\'a}r, Piotr and Girshick, Ross},
  booktitle = {CVPR},
  year   = {2022},
  eprint = {2111.06377},
  archivePrefix = {arXiv}
}""",
)

DENOISE = (
    r"""@inproceedings{brempong2022denoising,
  title  = {Denoising Pretraining for Semantic Segmentation},
  author = {Brempong, Emmanuel Asiedu and Kornblith, Simon and Chen, Ting and Parmar, Niki and
            Minderer, Matthias and Norouzi, Mohammad},
  booktitle = {CVPR Workshops},
  year   = {2022},
  eprint = {2205.11423},
  archivePrefix = {arXiv}
}""",
)

RESTORE = (
    r"""@misc{kang2017patchshuffle,
  title  = {PatchShuffle Regularization},
  author = {Kang, Guoliang and Dong, Xuanyi and Zheng, Liang and Yang, Yi},
  year   = {2017},
  eprint = {1707.07103},
  archivePrefix = {arXiv}
}""",
    r"""@misc{devries2017cutout,
  title  = {Improved Regularization of Convolutional Neural Networks with Cutout},
  author = {DeVries, Terrance and Taylor, Graham W.},
  year   = {2017},
  eprint = {1708.04552},
  archivePrefix = {arXiv}
}""",
)
