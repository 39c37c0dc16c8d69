"""Expert review in Label Studio: the server, the page, pushing drafts and pulling reviews."""
