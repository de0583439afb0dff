"""The work on Ray: clips streamed, encoders trained, features extracted, heads trained."""
