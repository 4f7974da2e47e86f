//! What is wrong with a configuration, where, and how to mend it.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::config::Text;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where in the text, in bytes.
    pub(crate) span: Option<Range<usize>>,
    /// What is wrong.
    pub(crate) message: String,
    /// How to mend it; may be empty.
    pub(crate) help: String,
}

impl Fault {
    /// A fault that is not in the text.
    pub(crate) fn plain(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), help: help.into() }
    }

    /// A fault at a place in the text.
    pub(crate) fn at(
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { span: Some(span), message: message.into(), help: help.into() }
    }

    /// A fault that the TOML reader found.
    pub(crate) fn toml(error: &toml::de::Error) -> Self {
        let (message, expected) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message, format!("expected {expected}")),
            None => (error.message(), String::new()),
        };
        Self { span: error.span(), message: message.to_owned(), help: expected }
    }

    /// The fault as people read it, with file, line and the text at fault.
    pub(crate) fn render(&self, text: &Text, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let path = text.path.as_ref().map_or("(no file)".into(), |path| path.display().to_string());
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut group = match &self.span {
            Some(span) => {
                let end = span.end.min(text.text.len());
                let span = span.start.min(end)..end;
                let marked = Snippet::source(text.text.as_str())
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(span));
                title.element(marked)
            }
            None => Group::with_title(title),
        };
        if !self.help.is_empty() {
            group = group.element(Level::HELP.message(self.help.as_str()));
        }
        renderer.render(&[group])
    }
}
