"""Stages: results with content-addressed names, on a disk or on S3; found, claimed, published and checked."""
