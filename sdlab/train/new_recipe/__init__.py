"""New recipes for a user's captioned pictures: a survey of the pictures, a choice of settings, and an estimate."""
