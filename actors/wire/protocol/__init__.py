"""What our two sides say to each other, and the bodies of the published contract."""
