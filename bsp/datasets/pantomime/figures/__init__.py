"""Movements of Pantomime's figures that version 2 adds, and the waves that all movements are made of."""
