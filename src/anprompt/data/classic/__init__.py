"""The field's classic data sets: catalog, check, preparation, CoOp's layout."""
