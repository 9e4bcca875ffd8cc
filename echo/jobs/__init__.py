"""Long texts as jobs: whole books, spoken piece by piece in what others leave of the device, resumable at any point."""
