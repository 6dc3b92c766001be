"""Other people's methods for the cut, by the rules of their papers, to compare with."""
