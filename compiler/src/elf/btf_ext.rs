//! Writer of the `.BTF.ext` section: which type each function has and which line of the script each instruction is from.
//!
//! Format: kernel `Documentation/bpf/btf.rst`, section 4.2.

/// Line and column are packed as the kernel wants them: 22 bits and 10 bits.
const MAX_LINE: u32 = (1 << 22) - 1;
const MAX_COL: u32 = (1 << 10) - 1;

/// What `.BTF.ext` says of one ELF section. String offsets are those of `.BTF`.
#[derive(Debug, Default)]
pub(super) struct SectionInfo {
    pub name: u32,
    /// Byte offset in the section, type id of the FUNC.
    pub funcs: Vec<(u32, u32)>,
    pub lines: Vec<LineInfo>,
}

#[derive(Debug)]
pub(super) struct LineInfo {
    /// Byte offset in the section.
    pub offset: u32,
    pub file: u32,
    pub text: u32,
    pub line: u32,
    pub col: u32,
}

/// Encodes the section.
pub(super) fn encode(sections: &[SectionInfo]) -> Vec<u8> {
    let mut funcs = words(&[8]);
    let mut lines = words(&[16]);
    for section in sections {
        funcs.extend(words(&[section.name, section.funcs.len() as u32]));
        for &(offset, ty) in &section.funcs {
            funcs.extend(words(&[offset, ty]));
        }
        if section.lines.is_empty() {
            continue;
        }
        lines.extend(words(&[section.name, section.lines.len() as u32]));
        for line in &section.lines {
            lines.extend(words(&[
                line.offset,
                line.file,
                line.text,
                line.line.min(MAX_LINE) << 10 | line.col.min(MAX_COL),
            ]));
        }
    }
    if lines.len() == 4 {
        lines.clear();
    }
    let (funcs_len, lines_len) = (funcs.len() as u32, lines.len() as u32);
    let mut out = vec![0x9f, 0xeb, 1, 0];
    // Header length; offset and length of func_info, line_info, and of the CO-RE relocations that weir does not make.
    out.extend(words(&[32, 0, funcs_len, funcs_len, lines_len, funcs_len + lines_len, 0]));
    out.extend(funcs);
    out.extend(lines);
    out
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
