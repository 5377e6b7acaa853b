"""Clover-2: heads that read the token drafted before (Xiao et al. 2024, arXiv 2408.00264)."""
