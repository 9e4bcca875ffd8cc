"""The teachers: texts, two free synthesisers with phone times, and voices shifted from the natural ones."""
