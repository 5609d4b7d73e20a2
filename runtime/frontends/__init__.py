"""Front-ends: what makes features of sound, words and faces."""
