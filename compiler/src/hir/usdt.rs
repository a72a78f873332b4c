//! Where the arguments of static events of programs are, as the assembler wrote it into the note (`SIZE@OPERAND`, AT&T syntax).

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsdtArg {
    /// Bytes, 1 to 8.
    pub size: u8,
    pub signed: bool,
    pub at: Operand,
}

/// Where an argument is; registers by their offset in `struct pt_regs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    Constant(i64),
    /// `shift` is 8 for `%ah` and the like.
    Register {
        offset: u32,
        shift: u8,
    },
    /// `displacement(base, index, scale)`
    Memory {
        displacement: i64,
        base: u32,
        index: Option<(u32, u8)>,
    },
    /// Something that this reader does not know, as written.
    Unknown(String),
}

/// Names of each general register, widest first, and the offset in `struct pt_regs`.
const REGISTERS: &[([&str; 4], u32)] = &[
    (["rax", "eax", "ax", "al"], 80),
    (["rbx", "ebx", "bx", "bl"], 40),
    (["rcx", "ecx", "cx", "cl"], 88),
    (["rdx", "edx", "dx", "dl"], 96),
    (["rsi", "esi", "si", "sil"], 104),
    (["rdi", "edi", "di", "dil"], 112),
    (["rbp", "ebp", "bp", "bpl"], 32),
    (["rsp", "esp", "sp", "spl"], 152),
    (["r8", "r8d", "r8w", "r8b"], 72),
    (["r9", "r9d", "r9w", "r9b"], 64),
    (["r10", "r10d", "r10w", "r10b"], 56),
    (["r11", "r11d", "r11w", "r11b"], 48),
    (["r12", "r12d", "r12w", "r12b"], 24),
    (["r13", "r13d", "r13w", "r13b"], 16),
    (["r14", "r14d", "r14w", "r14b"], 8),
    (["r15", "r15d", "r15w", "r15b"], 0),
];

/// Reads all arguments of a note.
pub(super) fn parse(text: &str) -> Vec<UsdtArg> {
    let mut args = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // Blanks may stand inside parentheses.
        let mut depth = 0;
        let end = rest
            .find(|c: char| {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                depth == 0 && c.is_ascii_whitespace()
            })
            .unwrap_or(rest.len());
        args.push(argument(&rest[..end]));
        rest = rest[end..].trim_start();
    }
    args
}

fn argument(text: &str) -> UsdtArg {
    let (size, operand) = match text.split_once('@') {
        // A missing size is that of a register.
        Some((size, operand)) => (size.parse::<i8>().unwrap_or(8), operand),
        None => (8, text),
    };
    let known = matches!(size.unsigned_abs(), 1 | 2 | 4 | 8);
    let at = known.then(|| read_operand(operand)).flatten();
    UsdtArg {
        size: if known { size.unsigned_abs() } else { 8 },
        signed: size < 0,
        at: at.unwrap_or_else(|| Operand::Unknown(text.to_owned())),
    }
}

fn read_operand(text: &str) -> Option<Operand> {
    if let Some(constant) = text.strip_prefix('$') {
        return signed(constant).map(Operand::Constant);
    }
    if let Some((displacement, inside)) = text.split_once('(') {
        let displacement = if displacement.is_empty() { 0 } else { signed(displacement)? };
        let mut parts = inside.strip_suffix(')')?.split(',').map(str::trim);
        let (base, _) = register(parts.next()?)?;
        let index = match parts.next() {
            None => None,
            Some(index) => Some((register(index)?.0, parts.next().map_or(Some(1), |s| s.parse().ok())?)),
        };
        return Some(Operand::Memory { displacement, base, index });
    }
    let (offset, shift) = register(text)?;
    Some(Operand::Register { offset, shift })
}

fn register(text: &str) -> Option<(u32, u8)> {
    let name = text.strip_prefix('%')?;
    let high = |n: &[&str; 4]| n[2].len() == 2 && n[2].ends_with('x') && name.len() == 2 && name.ends_with('h') && name[..1] == n[2][..1];
    REGISTERS.iter().find_map(|(names, offset)| {
        if names.contains(&name) {
            return Some((*offset, 0));
        }
        high(names).then_some((*offset, 8))
    })
}

fn signed(text: &str) -> Option<i64> {
    let (digits, negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let n = super::probes::number(digits)?.cast_signed();
    Some(if negative { n.wrapping_neg() } else { n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_of_every_form() {
        let at = |text: &str| parse(text).into_iter().map(|a| (a.size, a.signed, a.at)).collect::<Vec<_>>();
        assert_eq!(
            at("-4@%eax 8@$-5 1@%bh"),
            [
                (4, true, Operand::Register { offset: 80, shift: 0 }),
                (8, false, Operand::Constant(-5)),
                (1, false, Operand::Register { offset: 40, shift: 8 }),
            ]
        );
        let memory = |displacement, base, index| Operand::Memory { displacement, base, index };
        assert_eq!(
            at("8@-16(%rbp) -2@(%r8) 4@0x10(%rax, %rbx, 4) 8@(%rsi,%rdi)"),
            [
                (8, false, memory(-16, 32, None)),
                (2, true, memory(0, 72, None)),
                (4, false, memory(16, 80, Some((40, 4)))),
                (8, false, memory(0, 104, Some((112, 1)))),
            ]
        );
        assert_eq!(parse(""), []);
        assert_eq!(parse("%rdx")[0].at, Operand::Register { offset: 96, shift: 0 });
    }

    #[test]
    fn what_is_not_known_is_kept_as_written() {
        assert_eq!(parse("8@counter(%rip)")[0].at, Operand::Unknown("8@counter(%rip)".into()));
        assert_eq!(parse("16@%xmm0")[0].at, Operand::Unknown("16@%xmm0".into()));
    }
}
