"""What to cite, as BibTeX."""

SIMSIAM = (
    """@inproceedings{chen2021simsiam,
  title  = {Exploring Simple Siamese Representation Learning},
  author = {Chen, Xinlei and He, Kaiming},
  booktitle = {CVPR},
  year   = {2021},
  eprint = {2011.10566},
  archivePrefix = {arXiv}
}""",
)
