//! Finds in a verifier log what a person can use: the telling last lines, and the script line they are about.

use crate::load::LineInfo;

/// What matters in a verifier log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The verifier's own words: `R1 invalid mem access 'scalar'`. The last ones, without register dumps and totals.
    pub message: Vec<String>,
    /// The instruction that the verifier looked at last.
    pub insn: Option<u32>,
    /// The instruction as the log shows it: `(71) r1 = *(u8 *)(r2 +0)`.
    pub insn_text: Option<String>,
    /// The script line as the log repeats it from line_info.
    pub source: Option<String>,
    /// Line and column in the script, both from 1, when [`LineInfo`] was given.
    pub place: Option<(u32, u32)>,
}

/// `12: (71) r1 = *(u8 *)(r2 +0)  ; R1_w=scalar()` → number and instruction.
fn insn_line(line: &str) -> Option<(u32, &str)> {
    let (number, rest) = line.split_once(": ")?;
    let number = number.trim().parse().ok()?;
    // Newer kernels put the registers after the instruction, older ones print them alone: `12: R0=…`.
    if !rest.trim_start().starts_with('(') {
        return None;
    }
    Some((number, rest.split(" ; ").next().unwrap_or(rest).trim()))
}

/// Register dumps, state pruning, totals: true but useless to read.
fn is_noise(line: &str) -> bool {
    let line = line.trim();
    let number_then_registers = line
        .split_once(": ")
        .is_some_and(|(n, rest)| n.parse::<u32>().is_ok() && (is_registers(rest) || rest.is_empty()));
    line.is_empty()
        || is_registers(line)
        || number_then_registers
        || [
            "from ",
            "processed ",
            "verification time",
            "stack depth",
            "mark_precise",
            "Func#",
            "func#",
            "Validating ",
            "safe",
            "max_states",
            "peak_states",
        ]
        .iter()
        .any(|start| line.starts_with(start))
        || line.contains(" R10=fp0") && line.starts_with("from")
        || line.contains("propagating r")
        || line.starts_with("last_idx ")
        || line.starts_with("regs=")
        || line.starts_with("parent ")
}

fn is_registers(text: &str) -> bool {
    let mut chars = text.trim_start().chars();
    let register = chars.next() == Some('R') && chars.next().is_some_and(|c| c.is_ascii_digit());
    // `R1 invalid mem access` is a message, `R1=…` and `R1_w=…` are a dump.
    register && text.trim_start().split(' ').next().is_some_and(|word| word.contains('='))
}

/// Reads a log. `lines` are those of the program, or empty.
#[must_use]
pub fn digest(log: &str, lines: &[LineInfo]) -> Digest {
    let mut out = Digest::default();
    for line in log.lines() {
        if let Some((insn, text)) = insn_line(line) {
            out.insn = Some(insn);
            out.insn_text = Some(text.to_owned());
            out.message.clear();
        } else if let Some(source) = line.strip_prefix("; ") {
            // 6.9 and newer add ` @ FILE:LINE`.
            let text = source.rsplit_once(" @ ").map_or(source, |(text, _)| text);
            out.source = Some(text.trim().to_owned());
        } else if !is_noise(line) {
            out.message.push(line.trim().to_owned());
        }
    }
    // More than a few lines are a loop report or a dump of states; the last ones tell.
    let surplus = out.message.len().saturating_sub(4);
    out.message.drain(..surplus);
    if let Some(insn) = out.insn {
        let at = lines.partition_point(|l| l.insn <= insn);
        out.place = at.checked_sub(1).map(|i| (lines[i].line, lines[i].column));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
func#0 @0
0: R1=ctx() R10=fp0
; /tcp.dport == 22/ { drop(); } @ stdin:1
0: (61) r2 = *(u32 *)(r1 +0)          ; R1=ctx() R2_w=pkt(r=0)
1: (61) r3 = *(u32 *)(r1 +4)          ; R1=ctx() R3_w=pkt_end()
; @[ip.src] = count(); @ stdin:2
2: (71) r0 = *(u8 *)(r2 +13)
invalid access to packet, off=13 size=1, R2(id=0,off=13,r=0)
R2 offset is outside of the packet
processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
";

    #[test]
    fn the_last_words_and_their_place() {
        let lines = [
            LineInfo {
                insn: 0,
                line: 1,
                column: 3,
            },
            LineInfo {
                insn: 2,
                line: 2,
                column: 7,
            },
        ];
        let d = digest(LOG, &lines);
        assert_eq!(
            d.message,
            [
                "invalid access to packet, off=13 size=1, R2(id=0,off=13,r=0)",
                "R2 offset is outside of the packet"
            ]
        );
        assert_eq!(d.insn, Some(2));
        assert_eq!(d.insn_text.as_deref(), Some("(71) r0 = *(u8 *)(r2 +13)"));
        assert_eq!(d.source.as_deref(), Some("@[ip.src] = count();"));
        assert_eq!(d.place, Some((2, 7)));
    }

    #[test]
    fn register_dumps_of_older_kernels_are_not_messages() {
        let log = "\
; if (x)
12: (15) if r0 == 0x0 goto pc+3
 R0_w=map_value(off=0,ks=4,vs=8,imm=0) R10=fp0
13: R0=map_value(off=0,ks=4,vs=8,imm=0) R6=ctx(off=0,imm=0) R10=fp0
from 12 to 16: R0_w=P0 R6=ctx(off=0,imm=0) R10=fp0
16: (bf) r1 = r7
R7 !read_ok
processed 17 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 1
";
        let d = digest(log, &[]);
        assert_eq!(d.message, ["R7 !read_ok"]);
        assert_eq!((d.insn, d.place), (Some(16), None));
        assert_eq!(d.source.as_deref(), Some("if (x)"));
    }

    #[test]
    fn a_log_without_instructions_still_speaks() {
        assert_eq!(
            digest("BPF program is too large. Processed 1000001 insn\n", &[]).message,
            ["BPF program is too large. Processed 1000001 insn"]
        );
        assert_eq!(digest("", &[]), Digest::default());
    }
}
