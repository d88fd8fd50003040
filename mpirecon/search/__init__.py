"""Global search for poses: the orientation and offset at which an image fits a map best, and how probable these are."""
