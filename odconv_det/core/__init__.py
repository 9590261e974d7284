"""The machinery below :mod:`odconv_det.functional`, which has the shape letters."""
