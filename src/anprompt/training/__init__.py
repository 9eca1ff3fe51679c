"""From a data set and a backbone to a trained method."""
