"""Writing one token after another: beam search and sampling over anything that can go on by a token."""
