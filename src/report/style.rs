//! How a report looks.

/// The style of the page. Everything is in it: nothing is fetched.
pub(super) const STYLE: &str = include_str!("style.css");
