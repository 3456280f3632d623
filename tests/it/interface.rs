//! What callers may send and what they are told: sections of the interface, in both forms.
