//! Diagnostics as plain data. They are rendered in one place, in the `weir` binary.

/// Which source text of a run a [`Span`] points into; an index into the caller's list of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SourceId(pub u32);

/// A half-open range of bytes `start..end` in one source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    pub source: SourceId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    #[must_use]
    pub fn new(source: SourceId, start: u32, end: u32) -> Self {
        Self { source, start, end }
    }

    /// Returns the smallest span that covers both. Both must lie in the same source.
    #[must_use]
    pub fn to(self, other: Span) -> Span {
        Span {
            source: self.source,
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
    Lint,
}

/// One message for the author of the script.
///
/// `message` is lower case, has no full stop and puts names in backticks; `help` lines are the edit to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable, greppable name such as `unknown-name`.
    pub code: &'static str,
    pub severity: Severity,
    pub message: String,
    pub span: Span,
    /// What to write under the caret of `span`; empty for nothing.
    pub label: String,
    /// Other places that matter, each with what to say about it.
    pub labels: Vec<(Span, String)>,
    pub help: Vec<String>,
    /// `span` is a string literal, and meant is this part of its value.
    pub within: Option<(u32, u32)>,
}

impl Diagnostic {
    /// Says which bytes of the value of the string literal at `span` are meant.
    #[must_use]
    pub fn within(mut self, start: usize, end: usize) -> Self {
        self.within = Some((start as u32, end as u32));
        self
    }

    /// Replaces the span of a string literal by that of the part that is meant. `text` is the source.
    pub fn settle(&mut self, text: &str) {
        let Some((start, end)) = self.within.take() else { return };
        let Some(literal) = text.get(self.span.start as usize..self.span.end as usize) else {
            return;
        };
        if let Some((from, to)) = crate::literal::written(literal, start as usize, end as usize) {
            self.span = Span::new(self.span.source, self.span.start + from as u32, self.span.start + to as u32);
        }
    }

    #[must_use]
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            span,
            label: String::new(),
            labels: Vec::new(),
            help: Vec::new(),
            within: None,
        }
    }

    #[must_use]
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    #[must_use]
    pub fn lint(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Lint,
            ..Self::error(code, span, message)
        }
    }

    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.label = text.into();
        self
    }

    /// Adds another place; an empty span is no place in this text and is left out.
    #[must_use]
    pub fn with(mut self, span: Span, text: impl Into<String>) -> Self {
        if span != Span::default() {
            self.labels.push((span, text.into()));
        }
        self
    }

    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}
