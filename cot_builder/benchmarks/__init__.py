"""The data sets, one file each with licence, citation, layout and quirks, and what is done with any of them."""
