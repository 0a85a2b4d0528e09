//! What only whoever knows the host finds wrong with a configuration.

/// What a configuration declares and this host can't give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unusable {
    /// The field, as its path from the top of the configuration. Empty: it is about none.
    pub field: Vec<String>,
    /// What is wrong and what to do, for people.
    pub text: String,
}

impl Unusable {
    pub(crate) fn new<'a>(field: impl IntoIterator<Item = &'a str>, text: String) -> Self {
        let field = field.into_iter().map(str::to_owned).collect();
        Self { field, text }
    }
}
