//! Where a data set's images come from: one place, or several.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One or several sources, as [`crate::data::load`] takes them; the images of all, one after the other. In a config a text, or a
/// list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Sources(Vec<String>);

/// The two ways in which a config says it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the name or the path of a data set, or a list of them")]
enum Written {
    One(String),
    Several(Vec<String>),
}

impl From<Written> for Sources {
    fn from(written: Written) -> Self {
        match written {
            Written::One(source) => source.into(),
            Written::Several(sources) => Self(sources),
        }
    }
}

impl From<Sources> for Written {
    fn from(Sources(mut sources): Sources) -> Self {
        match sources.len() {
            0 | 1 => Self::One(sources.pop().unwrap_or_default()),
            _ => Self::Several(sources),
        }
    }
}

impl Sources {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Each of them changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(&str) -> String) -> Self {
        Self(self.iter().map(change).collect())
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl From<String> for Sources {
    /// An empty text names none.
    fn from(source: String) -> Self {
        Self(Some(source).filter(|source| !source.is_empty()).into_iter().collect())
    }
}

impl From<&str> for Sources {
    fn from(source: &str) -> Self {
        source.to_string().into()
    }
}

impl From<&String> for Sources {
    fn from(source: &String) -> Self {
        source.clone().into()
    }
}

impl From<Vec<String>> for Sources {
    fn from(sources: Vec<String>) -> Self {
        Self(sources)
    }
}

impl From<&[String]> for Sources {
    fn from(sources: &[String]) -> Self {
        Self(sources.to_vec())
    }
}

impl From<&Sources> for Sources {
    fn from(sources: &Sources) -> Self {
        sources.clone()
    }
}
