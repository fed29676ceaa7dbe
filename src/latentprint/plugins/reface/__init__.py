"""REFace (Baliah et al., WACV 2025, arXiv 2409.07269): its published checkpoint as prior, codec and teacher."""
