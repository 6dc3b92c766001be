"""One self-contained HTML page about runs: runs and rounds find out, words and charts tell, page joins."""
