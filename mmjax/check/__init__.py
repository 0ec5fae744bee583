"""Does a run fit? Its steps compiled for devices that need not be there, and counted."""
