//! What kie.ai may answer, and what callers get for it.
