//! Byte offsets to lines and columns.

/// Finds line, column and line text of a byte offset. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug)]
pub struct LineIndex<'s> {
    text: &'s str,
    /// Where each line starts.
    starts: Vec<u32>,
}

impl<'s> LineIndex<'s> {
    #[must_use]
    pub fn new(text: &'s str) -> Self {
        let mut starts = vec![0];
        starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| at as u32 + 1),
        );
        Self { text, starts }
    }

    /// Returns line and column, both from 1. An offset behind the text is taken as its end.
    #[must_use]
    pub fn line_col(&self, offset: u32) -> (u32, u32) {
        let mut offset = (offset as usize).min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start as usize <= offset);
        let start = self.starts[line - 1] as usize;
        let column = self.text[start..offset].chars().count() + 1;
        (line as u32, column as u32)
    }

    /// Returns the text of a line (from 1) without its line break; `""` for a line that does not exist.
    #[must_use]
    pub fn line_text(&self, line: u32) -> &'s str {
        let Some(start) = (line as usize).checked_sub(1).and_then(|index| self.starts.get(index)) else {
            return "";
        };
        let end = self.starts.get(line as usize).map_or(self.text.len(), |next| *next as usize);
        self.text[*start as usize..end].trim_end_matches(['\n', '\r'])
    }

    #[must_use]
    pub fn line_count(&self) -> u32 {
        self.starts.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::LineIndex;

    #[test]
    fn lines_and_columns() {
        let index = LineIndex::new("ab\n\u{e9}x\r\n\nend");
        assert_eq!(index.line_count(), 4);
        assert_eq!([0, 1, 2, 3].map(|at| index.line_col(at)), [(1, 1), (1, 2), (1, 3), (2, 1)]);
        // Inside of a character counts as its start; columns count characters.
        assert_eq!([4, 5, 6, 8].map(|at| index.line_col(at)), [(2, 1), (2, 2), (2, 3), (3, 1)]);
        assert_eq!([9, 12, 99].map(|at| index.line_col(at)), [(4, 1), (4, 4), (4, 4)]);
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|line| index.line_text(line)),
            ["", "ab", "\u{e9}x", "", "end", ""]
        );
        assert_eq!(LineIndex::new("").line_col(0), (1, 1));
    }
}
