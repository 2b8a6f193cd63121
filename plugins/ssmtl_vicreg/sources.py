"""What to cite, as BibTeX."""

VICREG = (
    """@inproceedings{bardes2022vicreg,
  title  = {VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {ICLR},
  year   = {2022},
  eprint = {2105.04906},
  archivePrefix = {arXiv}
}""",
)
