//! Reading and checking the settings.
