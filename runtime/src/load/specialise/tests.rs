//! Random programs do the same before and after; a few by hand show what becomes of them.

mod machine;

use super::*;
use aya_obj::btf::{FuncSecInfo, LineSecInfo};
use aya_obj::generated::{bpf_func_id, bpf_func_info, bpf_line_info};
use machine::Machine;

const MAP: i32 = 5;
const SETTINGS: [i32; 4] = [7, -2, 0, 1];

const LDX_B: u8 = 0x71;
const LDX_H: u8 = 0x69;
const LDX_W: u8 = 0x61;
const LDX_DW: u8 = 0x79;
const LDX_SIGNED_W: u8 = 0x81;
const STORE_DW: u8 = 0x7a;
const STX_W: u8 = 0x63;
const STX_DW: u8 = 0x7b;
const STX_ATOMIC: u8 = 0xdb;
const STX_ATOMIC_W: u8 = 0xc3;
const MOV64_REG: u8 = 0xbf;
const JEQ: u8 = 0x15;
const JNE: u8 = 0x55;
const FETCH: i32 = 1;
const EXCHANGE: i32 = 0xe1;
const COMPARE: i32 = 0xf1;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(dst, src),
        off,
        imm,
    }
}

/// `dst = &map[offset]`
fn address(dst: u8, map: i32, offset: i32) -> [bpf_insn; 2] {
    [insn(LD_IMM64, dst, MAP_VALUE, 0, map), insn(0, 0, 0, 0, offset)]
}

fn data() -> Vec<u8> {
    SETTINGS.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn call(helper: bpf_func_id) -> bpf_insn {
    insn(CALL, 0, 0, 0, helper as i32)
}

const EXIT_INSN: fn() -> bpf_insn = || insn(EXIT, 0, 0, 0, 0);

/// Code, registers, offset, number.
type Shown = (u8, u8, u8, i16, i32);

fn shown(code: &[bpf_insn]) -> Vec<Shown> {
    code.iter().map(|i| (i.code, i.dst_reg(), i.src_reg(), i.off, i.imm)).collect()
}

fn specialised(code: &[bpf_insn]) -> Option<Vec<bpf_insn>> {
    let data = data();
    shortest(code, Settings { map: MAP, data: &data }).map(|(code, _)| code)
}

fn becomes(parts: &[&[bpf_insn]]) -> Vec<Shown> {
    shown(&specialised(&parts.concat()).unwrap())
}

#[test]
fn a_setting_that_decides_leaves_nothing_of_itself() {
    // if settings[2] == 0 { r0 = 1 } else { r0 = settings[1] }
    let code: &[&[bpf_insn]] = &[
        &address(1, MAP, 8),
        &[insn(LDX_W, 1, 1, 0, 0), insn(JNE, 1, 0, 2, 0), insn(MOV64, 0, 0, 0, 1), EXIT_INSN()],
        &address(2, MAP, 4),
        &[insn(LDX_W, 0, 2, 0, 0), EXIT_INSN()],
    ];
    assert_eq!(becomes(code), [(MOV32, 0, 0, 0, 1), (EXIT, 0, 0, 0, 0)]);
    let other: &[&[bpf_insn]] = &[
        &address(1, MAP, 12),
        &[insn(LDX_W, 1, 1, 0, 0), insn(JNE, 1, 0, 2, 0), insn(MOV64, 0, 0, 0, 1), EXIT_INSN()],
        &address(2, MAP, 0),
        &[insn(LDX_W, 0, 2, 4, 0), EXIT_INSN()],
    ];
    // Of 32 bits, as it was read.
    assert_eq!(becomes(other), [(MOV32, 0, 0, 0, -2), (EXIT, 0, 0, 0, 0)]);
}

#[test]
fn settings_have_any_size() {
    const RSH64: u8 = 0x77;
    let read = |load: u8, at: i32, shift: i32| {
        let code = [insn(load, 0, 1, 0, 0), insn(RSH64, 0, 0, 0, shift), EXIT_INSN()];
        becomes(&[&address(1, MAP, at), &code])
    };
    let number = |number| [(MOV32, 0, 0, 0, number), (EXIT, 0, 0, 0, 0)];
    assert_eq!(read(LDX_B, 4, 0), number(0xfe));
    assert_eq!(read(LDX_B, 15, 0), number(0));
    assert_eq!(read(LDX_H, 6, 0), number(0xffff));
    assert_eq!(read(LDX_W, 4, 1), number(0x7fff_ffff));
    assert_eq!(read(LDX_DW, 0, 32), number(-2));
}

#[test]
fn a_setting_is_known_on_the_stack_as_well() {
    let code: &[&[bpf_insn]] = &[
        &address(1, MAP, 0),
        &[
            insn(LDX_W, 1, 1, 0, 0),
            insn(STX_DW, 10, 1, -16, 0),
            call(bpf_func_id::BPF_FUNC_ktime_get_ns),
        ],
        &[insn(LDX_DW, 0, 10, -16, 0), EXIT_INSN()],
    ];
    let expected = [(CALL, 0, 0, 0, 5), (MOV32, 0, 0, 0, 7), (EXIT, 0, 0, 0, 0)];
    assert_eq!(becomes(code), expected);
    // As much of it as was stored.
    let half: &[&[bpf_insn]] = &[
        &[insn(MOV64, 1, 0, 0, -2), insn(STX_W, 10, 1, -16, 0), insn(LDX_W, 0, 10, -16, 0)],
        &[EXIT_INSN()],
    ];
    assert_eq!(becomes(half), [(MOV32, 0, 0, 0, -2), (EXIT, 0, 0, 0, 0)]);
    // Not where the kernel may have written.
    let helper = bpf_func_id::BPF_FUNC_probe_read_kernel as i32;
    let written: &[&[bpf_insn]] = &[
        &[insn(MOV64, 3, 0, 0, 7), insn(STX_DW, 10, 3, -16, 0)],
        &[insn(MOV64_REG, 1, 10, 0, 0), insn(ADD64, 1, 0, 0, -24), insn(MOV64, 2, 0, 0, 16)],
        &[insn(CALL, 0, 0, 0, helper), insn(LDX_DW, 0, 10, -16, 0), EXIT_INSN()],
    ];
    let code = written.concat();
    assert_eq!(becomes(written).len(), code.len());
}

#[test]
fn only_settings_are_numbers() {
    let with = |first: [bpf_insn; 2], load: bpf_insn| [&first[..], &[load, EXIT_INSN()]].concat();
    for (name, code) in [
        ("another map", with(address(1, MAP + 1, 0), insn(LDX_W, 0, 1, 0, 0))),
        ("behind the end", with(address(1, MAP, 16), insn(LDX_W, 0, 1, 0, 0))),
        ("half behind the end", with(address(1, MAP, 12), insn(LDX_W, 0, 1, 2, 0))),
        ("before the beginning", with(address(1, MAP, 0), insn(LDX_W, 0, 1, -4, 0))),
        ("with its sign", with(address(1, MAP, 4), insn(LDX_SIGNED_W, 0, 1, 0, 0))),
    ] {
        assert_eq!(becomes(&[&code]), shown(&code), "{name}");
    }
    // On one way only.
    let code: &[&[bpf_insn]] = &[
        &[
            call(bpf_func_id::BPF_FUNC_ktime_get_ns),
            insn(MOV64, 1, 0, 0, 1),
            insn(JEQ, 0, 0, 1, 0),
            insn(MOV64, 1, 0, 0, 2),
        ],
        &[insn(MOV64_REG, 0, 1, 0, 0), EXIT_INSN()],
    ];
    assert_eq!(becomes(code).len(), 6);
}

#[test]
fn what_others_may_reach_on_the_stack_stays() {
    let loop_helper = bpf_func_id::BPF_FUNC_loop as i32;
    let store = |at: i16, number: i32| insn(STORE_DW, 10, 0, at, number);
    let below = [insn(MOV64_REG, 3, 10, 0, 0), insn(ADD64, 3, 0, 0, -8)];
    // A function that the kernel calls gets an address, and goes down from it: what it finds there is in a `struct` with it.
    let callback = [
        &[store(-16, 0), store(-8, 3), insn(MOV64, 1, 0, 0, 2)][..],
        &[insn(LD_IMM64, 2, PSEUDO_FUNC, 0, 7), insn(0, 0, 0, 0, 0)],
        &below,
        &[
            insn(MOV64, 4, 0, 0, 0),
            insn(CALL, 0, 0, 0, loop_helper),
            insn(LDX_DW, 0, 10, -16, 0),
            EXIT_INSN(),
        ],
        &[
            insn(LDX_DW, 3, 2, -8, 0),
            insn(STX_DW, 2, 3, -8, 0),
            insn(MOV64, 0, 0, 0, 0),
            EXIT_INSN(),
        ],
    ]
    .concat();
    // As one of the program's own.
    let function = [
        &[store(-16, 0), store(-8, 3)][..],
        &below,
        &[
            insn(MOV64_REG, 1, 3, 0, 0),
            insn(CALL, 0, PSEUDO_CALL, 0, 2),
            insn(LDX_DW, 0, 10, -16, 0),
            EXIT_INSN(),
        ],
        &[
            insn(LDX_DW, 3, 1, -8, 0),
            insn(STX_DW, 1, 3, -8, 0),
            insn(MOV64, 0, 0, 0, 0),
            EXIT_INSN(),
        ],
    ]
    .concat();
    // One of two addresses.
    let either = [
        &[store(-24, 0), store(-16, 0), store(-8, 3), call(bpf_func_id::BPF_FUNC_ktime_get_ns)][..],
        &[insn(MOV64_REG, 3, 10, 0, 0), insn(ADD64, 3, 0, 0, -8), insn(JEQ, 0, 0, 2, 0)],
        &[insn(MOV64_REG, 3, 10, 0, 0), insn(ADD64, 3, 0, 0, -16), insn(STX_DW, 3, 0, -8, 0)],
        &[insn(LDX_DW, 0, 10, -24, 0), EXIT_INSN()],
    ]
    .concat();
    // One, or something else.
    let perhaps = [
        &[store(-8, 3), call(bpf_func_id::BPF_FUNC_ktime_get_ns)][..],
        &[insn(MOV64_REG, 3, 10, 0, 0), insn(JEQ, 0, 0, 2, 0)],
        &address(3, MAP + 1, 16),
        &[insn(STX_DW, 3, 0, -8, 0), insn(LDX_DW, 0, 10, -8, 0), EXIT_INSN()],
    ]
    .concat();
    // None at all.
    let elsewhere = [
        &address(3, MAP + 1, 16)[..],
        &[insn(STORE_DW, 3, 0, -8, 7), insn(MOV64, 0, 0, 0, 0), EXIT_INSN()],
    ]
    .concat();
    for (name, code) in [
        ("callback", callback),
        ("function", function),
        ("either", either),
        ("perhaps", perhaps),
        ("elsewhere", elsewhere),
    ] {
        assert_eq!(becomes(&[&code]).len(), code.len(), "{name}");
    }
}

#[test]
fn a_function_that_is_needed_no_longer_is_gone() {
    // What decides that is known the second time over: until then an address was taken for a setting that is off.
    let code: &[&[bpf_insn]] = &[
        &[
            insn(STORE_DW, 10, 0, -8, 0),
            insn(MOV64_REG, 7, 10, 0, 0),
            insn(ADD64, 7, 0, 0, -16),
        ],
        &address(8, MAP, 8),
        &[insn(LDX_W, 8, 8, 0, 0), insn(JEQ, 8, 0, 1, 0), insn(STORE_DW, 7, 0, 0, 0)],
        &[insn(LDX_DW, 9, 10, -8, 0), insn(JEQ, 9, 0, 1, 0), insn(CALL, 0, PSEUDO_CALL, 0, 2)],
        &[insn(MOV64, 0, 0, 0, 0), EXIT_INSN()],
        &[insn(MOV64, 0, 0, 0, 1), EXIT_INSN()],
    ];
    assert_eq!(becomes(code), [(MOV32, 0, 0, 0, 0), (EXIT, 0, 0, 0, 0)]);
}

#[test]
fn helpers_take_as_many_arguments_as_the_kernel_says() {
    use bpf_func_id as id;
    for (helper, count) in [
        (id::BPF_FUNC_ktime_get_ns, 0),
        (id::BPF_FUNC_xdp_get_buff_len, 1),
        (id::BPF_FUNC_get_socket_cookie, 1),
        (id::BPF_FUNC_map_lookup_elem, 2),
        (id::BPF_FUNC_map_delete_elem, 2),
        (id::BPF_FUNC_tail_call, 3),
        (id::BPF_FUNC_probe_read_kernel, 3),
        (id::BPF_FUNC_map_update_elem, 4),
        (id::BPF_FUNC_skb_load_bytes, 4),
        (id::BPF_FUNC_xdp_load_bytes, 4),
        (id::BPF_FUNC_perf_event_output, 5),
    ] {
        let arguments: Set = (1..=count).map(bit).sum();
        assert_eq!(super::arguments(&call(helper)), arguments, "{helper:?}");
        // A function of the program, or of the kernel, with that number.
        assert_eq!(super::arguments(&insn(CALL, 0, PSEUDO_CALL, 0, helper as i32)), 0b11_1110);
        assert_eq!(super::arguments(&insn(CALL, 0, 2, 0, helper as i32)), 0b11_1110);
    }
}

#[test]
fn jumps_lead_past_jumps() {
    let code = [
        call(bpf_func_id::BPF_FUNC_ktime_get_ns),
        insn(JEQ, 0, 0, 2, 0),
        insn(MOV64, 0, 0, 0, 2),
        insn(JA, 0, 0, 1, 0),
        insn(JA, 0, 0, 1, 0),
        EXIT_INSN(),
        insn(MOV64, 0, 0, 0, 3),
        EXIT_INSN(),
    ];
    let expected = [
        (CALL, 0, 0, 0, 5),
        (JEQ, 0, 0, 2, 0),
        (MOV32, 0, 0, 0, 2),
        (EXIT, 0, 0, 0, 0),
        (MOV32, 0, 0, 0, 3),
        (EXIT, 0, 0, 0, 0),
    ];
    assert_eq!(becomes(&[&code]), expected);
    // One of 32 bits, past what goes.
    let code = [
        call(bpf_func_id::BPF_FUNC_ktime_get_ns),
        insn(JEQ, 0, 0, 1, 0),
        insn(JA32, 0, 0, 0, 2),
        insn(MOV64, 1, 0, 0, 9),
        insn(MOV64, 0, 0, 0, 2),
        EXIT_INSN(),
    ];
    let expected = [
        (CALL, 0, 0, 0, 5),
        (JEQ, 0, 0, 1, 0),
        (JA32, 0, 0, 0, 1),
        (MOV32, 0, 0, 0, 2),
        (EXIT, 0, 0, 0, 0),
    ];
    assert_eq!(becomes(&[&code]), expected);
    // Too far for one.
    let far = [insn(STORE_DW, 6, 0, -8, 7); 16_400];
    let code = [
        &address(6, MAP + 1, 16)[..],
        &[call(bpf_func_id::BPF_FUNC_ktime_get_ns), insn(JEQ, 0, 0, 16_401, 0)],
        &far,
        &[insn(JEQ, 0, 0, 1, 1), insn(JA, 0, 0, 16_400, 0)],
        &far,
        &[insn(MOV64, 0, 0, 0, 0), EXIT_INSN()],
    ];
    assert_eq!(becomes(&code)[3], (JEQ, 0, 0, 16_401, 0));
    // A ring, which a verifier refuses, is one afterwards.
    assert_eq!(becomes(&[&[insn(JA, 0, 0, 0, 0), insn(JA, 0, 0, -2, 0)]]), [(JA, 0, 0, -1, 0)]);
}

#[test]
fn code_that_cannot_be_followed_stays() {
    const LD_ABS: u8 = 0x20;
    for (name, code) in [
        ("leads out of itself", vec![insn(MOV64, 0, 0, 0, 1)]),
        ("jumps behind its end", vec![insn(JA, 0, 0, 5, 0), EXIT_INSN()]),
        ("jumps before its beginning", vec![insn(JA, 0, 0, -5, 0), EXIT_INSN()]),
        ("is cut off", vec![insn(LD_IMM64, 0, 0, 0, 1)]),
        ("writes the end of the stack", vec![insn(MOV64, 10, 0, 0, 1), EXIT_INSN()]),
        ("has an instruction of old", vec![insn(LD_ABS, 0, 0, 0, 1), EXIT_INSN()]),
        ("has an atomic load", vec![insn(STX_ATOMIC, 0, 1, 0, 0x100), EXIT_INSN()]),
        (
            "jumps to a register",
            vec![insn(MOV64, 1, 0, 0, 0), insn(0x0d, 1, 0, 0, 0), EXIT_INSN()],
        ),
        ("calls a register", vec![insn(0x8d, 1, 0, 0, 0), EXIT_INSN()]),
        ("stores in a way of its own", vec![insn(0x8b, 10, 1, -8, 0), EXIT_INSN()]),
        (
            "runs into a function",
            vec![
                insn(CALL, 0, PSEUDO_CALL, 0, 1),
                insn(CALL, 0, 2, 0, 1),
                insn(MOV64, 0, 0, 0, 0),
                EXIT_INSN(),
            ],
        ),
        ("is nothing", Vec::new()),
    ] {
        assert!(specialised(&code).is_none(), "{name}");
    }
}

#[test]
fn functions_and_lines_go_with_their_instructions() {
    let lines = |lines: &[(u32, u32)]| -> Vec<bpf_line_info> {
        let info = |&(insn_off, line): &(u32, u32)| bpf_line_info {
            insn_off,
            file_name_off: 0,
            line_off: 0,
            line_col: line << 10,
        };
        lines.iter().map(info).collect()
    };
    let functions = |at: &[u32]| -> Vec<bpf_func_info> {
        let info = |&insn_off: &u32| bpf_func_info {
            insn_off,
            type_id: insn_off,
        };
        at.iter().map(info).collect()
    };
    // The program calls the function at 9, or the one at 7, as a setting wants that is 0.
    let moved = |jump: u8| {
        let instructions = [
            &address(7, MAP, 8)[..],
            &[insn(LDX_W, 7, 7, 0, 0), insn(jump, 7, 0, 2, 0)],
            &[insn(CALL, 0, PSEUDO_CALL, 0, 3), EXIT_INSN()],
            &[insn(CALL, 0, PSEUDO_CALL, 0, 3), EXIT_INSN()],
            &[insn(MOV64, 0, 0, 0, 1), EXIT_INSN()],
            &[insn(MOV64, 0, 0, 0, 2), EXIT_INSN()],
        ]
        .concat();
        let mut function = Function {
            address: 0,
            name: String::new(),
            section_index: object::SectionIndex(0),
            section_offset: 0,
            instructions,
            func_info: FuncSecInfo::default(),
            line_info: LineSecInfo::default(),
            func_info_rec_size: 8,
            line_info_rec_size: 16,
        };
        function.func_info.func_info = functions(&[0, 8, 10]);
        function.line_info.line_info = lines(&[(0, 10), (3, 11), (4, 12), (6, 13), (8, 14), (10, 15), (11, 16)]);
        assert!(specialise(&mut function, MAP, &data()));
        let (functions, lines) = (&function.func_info, &function.line_info);
        assert_eq!(functions.num_info as usize, functions.func_info.len());
        assert_eq!(lines.num_info as usize, lines.line_info.len());
        let functions: Vec<_> = functions.func_info.iter().map(|info| (info.insn_off, info.type_id)).collect();
        let lines: Vec<_> = lines.line_info.iter().map(|info| (info.insn_off, info.line_col >> 10)).collect();
        (shown(&function.instructions), functions, lines)
    };
    let code = |number: i32| {
        vec![
            (CALL, 0, PSEUDO_CALL, 0, 1),
            (EXIT, 0, 0, 0, 0),
            (MOV32, 0, 0, 0, number),
            (EXIT, 0, 0, 0, 0),
        ]
    };
    assert_eq!(moved(JEQ), (code(2), vec![(0, 0), (2, 10)], vec![(0, 13), (2, 15), (3, 16)]));
    // The last one goes.
    assert_eq!(moved(JNE), (code(1), vec![(0, 0), (2, 8)], vec![(0, 12), (2, 14)]));
}

/// What the verifier wants of the code's form: every instruction reached, no function left over, each with an end.
fn check_structure(code: &[bpf_insn]) -> BTreeSet<usize> {
    let starts: BTreeSet<usize> = functions(code).into_iter().chain([0]).collect();
    let mut reached = vec![false; code.len()];
    let mut todo = vec![0];
    while let Some(at) = todo.pop() {
        if std::mem::replace(&mut reached[at], true) {
            continue;
        }
        let insn = &code[at];
        let width = if is_wide(insn) { 2 } else { 1 };
        reached[at + width - 1] = true;
        todo.extend(target(code, at));
        if !matches!(insn.code, EXIT | JA | JA32) {
            todo.push(at + width);
        }
    }
    assert!(reached.iter().all(|reached| *reached), "never reached: {:?}", shown(code));
    for end in starts.iter().copied().chain([code.len()]).filter(|end| *end > 0) {
        assert!(matches!(code[end - 1].code, EXIT | JA | JA32), "no end before {end}");
    }
    starts
}

/// Another compiler may read settings in another way, and nobody would notice but by the time that packets take.
#[test]
fn nothing_in_a_native_reads_a_setting_any_more() {
    use weir_ebpf_builtins::{blocklist, flows, identity, retransmits};
    let mut random = Random(0x1234_5678_9abc_def1);
    for object in [&blocklist::OBJECT, &flows::OBJECT, &identity::OBJECT, &retransmits::OBJECT] {
        let mut object = super::super::Elf::parse(object).unwrap().object;
        let maps = object.maps.clone();
        let numbered = || (1000..).zip(&maps).map(|(fd, (name, map))| (name.as_str(), fd, map));
        let text_sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(numbered(), &text_sections).unwrap();
        object.relocate_calls(&text_sections).unwrap();
        let (_, settings, map) = numbered().find(|(name, ..)| *name == ".rodata").unwrap();
        let reads = |code: &[bpf_insn]| {
            let is_read = |insn: &&bpf_insn| is_wide(insn) && insn.src_reg() == MAP_VALUE && insn.imm == settings;
            code.iter().filter(is_read).count()
        };
        let mut all = 0;
        for program in object.programs.values() {
            let before = &object.functions[&program.function_key()];
            all += reads(&before.instructions);
            for round in 0..20 {
                let mut data = map.data().to_vec();
                for word in data.chunks_exact_mut(4).filter(|_| round > 0) {
                    let number = random.of(&[0, 0, 1, 1, 2, 3, u32::MAX, round]);
                    word.copy_from_slice(&number.to_ne_bytes());
                }
                let mut function = before.clone();
                assert!(specialise(&mut function, settings, &data), "{}", function.name);
                assert_eq!(reads(&function.instructions), 0, "{}", function.name);
                let starts = check_structure(&function.instructions);
                let functions = function.func_info.func_info.iter().map(|info| info.insn_off as usize);
                assert!(functions.eq(starts.iter().copied()), "{}", function.name);
                let lines: Vec<_> = function.line_info.line_info.iter().map(|info| info.insn_off as usize).collect();
                assert!(lines.is_sorted_by(|a, b| a < b), "{}", function.name);
                assert!(starts.iter().all(|start| lines.contains(start)), "{}", function.name);
            }
        }
        assert!(all > 0, "no settings");
    }
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A program that reads no register and no byte of the stack before it has written it, as the verifier demands.
fn program(random: &mut Random) -> Vec<bpf_insn> {
    const REGISTERS: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    // Addresses are taken of the first half only, so that the other one is private, unless they are moved.
    const PLACES: [i16; 8] = [-8, -16, -24, -32, -40, -48, -56, -64];
    const ADDRESSED: [i16; 4] = [-8, -16, -24, -32];
    const NUMBERS: [i32; 8] = [0, 1, 2, 7, -1, -2, 63, i32::MIN];
    // Most keep their private part to themselves.
    let escapes = random.below(2) == 0;
    let mut code: Vec<bpf_insn> = Vec::new();
    for place in PLACES {
        code.push(insn(0x7a, 10, 0, place, random.of(&NUMBERS)));
    }
    for register in REGISTERS {
        code.push(insn(MOV64, register, 0, 0, random.of(&NUMBERS)));
    }
    // Where an instruction begins, and where a number that is counted down is: a jump back needs one.
    let mut starts = Vec::new();
    for _ in 0..8 + random.below(40) {
        starts.push(code.len());
        let (dst, src) = (random.of(&REGISTERS[..9]), random.of(&REGISTERS[..9]));
        match random.below(12) {
            0..=1 => {
                let len = code.len();
                if random.below(8) == 0 {
                    code.extend([
                        insn(LD_IMM64, dst, 0, 0, random.of(&NUMBERS)),
                        insn(0, 0, 0, 0, random.of(&NUMBERS)),
                    ]);
                    continue;
                }
                code.extend(address(dst, random.of(&[MAP, MAP, MAP, MAP + 1]), random.of(&[0, 4, 8, 12])));
                if random.below(4) == 0 {
                    starts.push(len + 2);
                }
                code.push(insn(random.of(&[LDX_W, LDX_W, 0x69, 0x71, LDX_SIGNED_W, 0x91]), src, dst, 0, 0));
            }
            2..=4 => {
                let operation = random.of(&[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, NEG, 0x90, 0xa0, MOV, MOV, 0xc0]);
                let class = random.of(&[ALU, ALU64]);
                let is_shift = matches!(operation, 0x60 | 0x70 | 0xc0);
                if operation == NEG {
                    code.push(insn(operation | class, dst, 0, 0, 0));
                } else if random.below(2) == 0 {
                    let signed = if operation == MOV { random.of(&[0, 0, 8, 16]) } else { 0 };
                    code.push(insn(operation | class | FROM_REGISTER, dst, src, signed, 0));
                } else {
                    let number = if is_shift { random.below(32) as i32 } else { random.of(&NUMBERS) };
                    code.push(insn(operation | class, dst, 0, 0, number));
                }
            }
            5 => code.push(insn(random.of(&[STX_DW, STX_W, 0x6b, 0x73]), 10, src, random.of(&PLACES), 0)),
            // A part of a number, too.
            6 => {
                let part = random.of(&[0, 0, 0, 4]);
                let codes = if part == 0 {
                    [LDX_DW, LDX_DW, LDX_W, 0x69, 0x71]
                } else {
                    [STX_W, STX_W, LDX_W, 0x6b, 0x71]
                };
                let code_of = random.of(&codes);
                let (dst, src) = if code_of & CLASS == LDX { (dst, 10) } else { (10, src) };
                code.push(insn(code_of, dst, src, random.of(&PLACES) + part, 0));
            }
            7 => {
                // An address on the stack, for a helper or for a store through it.
                code.push(insn(MOV64_REG, 2, 10, 0, 0));
                code.push(insn(ADD64, 2, 0, 0, i32::from(random.of(&ADDRESSED))));
                match if escapes { random.below(10) } else { 8 } {
                    0 => code.push(insn(STX_DW, 2, src, random.of(&[0, 8, -8]), 0)),
                    1 => code.push(insn(LDX_DW, dst, 2, random.of(&[0, 8, -8]), 0)),
                    2 => code.push(insn(ADD64, 2, 0, 0, random.of(&[8, -8]))),
                    3 => {
                        // By way of memory.
                        code.push(insn(STX_DW, 10, 2, -8, 0));
                        code.push(insn(LDX_DW, 7, 10, -8, 0));
                        code.push(insn(random.of(&[STX_DW, 0x73]), 7, src, random.of(&PLACES), 0));
                    }
                    4 => {
                        // As far as a number says that nobody knows.
                        code.push(call(bpf_func_id::BPF_FUNC_ktime_get_ns));
                        for register in 1..6 {
                            code.push(insn(MOV64, register, 0, 0, random.of(&NUMBERS)));
                        }
                        code.push(insn(0x57, 0, 0, 0, 7));
                        code.push(insn(0x27, 0, 0, 0, -8));
                        code.push(insn(MOV64_REG, 2, 10, 0, 0));
                        code.push(insn(ADD64 | FROM_REGISTER, 2, 0, 0, 0));
                        code.push(insn(STX_DW, 2, src, -8, 0));
                    }
                    5 => {
                        // One of two, which leads to any.
                        let far = random.of(&[-8, -16]);
                        code.push(insn(JEQ, src, 0, 1, 7));
                        code.push(insn(ADD64, 2, 0, 0, far));
                        code.push(insn(ADD64, 2, 0, 0, random.of(&[0, -8, -16])));
                        code.push(insn(STX_DW, 2, src, random.of(&[0, -8]), 0));
                    }
                    6 => code.push(insn(STX_ATOMIC, 2, src, 0, random.of(&[0, FETCH, EXCHANGE, COMPARE]))),
                    _ => {
                        code.push(insn(MOV64_REG, 1, 2, 0, 0));
                        code.push(insn(CALL, 0, 0, 0, random.of(&[1, 113])));
                        for register in 1..6 {
                            code.push(insn(MOV64, register, 0, 0, random.of(&NUMBERS)));
                        }
                    }
                }
            }
            8 => {
                // What a lookup gave back, which may be nothing.
                code.push(insn(MOV64_REG, 2, 10, 0, 0));
                code.push(insn(ADD64, 2, 0, 0, i32::from(random.of(&ADDRESSED))));
                code.push(call(bpf_func_id::BPF_FUNC_map_lookup_elem));
                for register in 1..6 {
                    code.push(insn(MOV64, register, 0, 0, random.of(&NUMBERS)));
                }
                code.push(insn(JEQ, 0, 0, 1, 0));
                code.push(insn(
                    random.of(&[STX_DW, STX_ATOMIC, STX_ATOMIC_W]),
                    0,
                    random.of(&REGISTERS[6..]),
                    0,
                    0,
                ));
            }
            9 if random.below(4) == 0 => code.push(insn(
                STX_ATOMIC,
                10,
                src,
                random.of(&PLACES),
                random.of(&[0, FETCH, EXCHANGE, COMPARE]),
            )),
            _ => {
                let operation = random.of(&[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0]);
                let class = random.of(&[JMP, JMP32]);
                // Where to is found when all is there.
                if random.below(3) == 0 {
                    code.push(insn(operation | class | FROM_REGISTER, dst, src, i16::MAX, 0));
                } else {
                    code.push(insn(operation | class, dst, 0, i16::MAX, random.of(&NUMBERS)));
                }
            }
        }
    }
    let end = code.len();
    starts.push(end);
    for _ in 0..4 {
        code.push(insn(0xaf, 0, random.of(&REGISTERS), 0, 0));
    }
    code.push(insn(LDX_DW, 1, 10, random.of(&PLACES), 0));
    code.push(insn(0x0f, 0, 1, 0, 0));
    code.push(EXIT_INSN());
    for (at, insn) in code.iter_mut().enumerate().filter(|(_, insn)| insn.off == i16::MAX) {
        let later: Vec<usize> = starts.iter().copied().filter(|start| *start > at).collect();
        insn.off = (random.of(&later) - at - 1) as i16;
    }
    if random.below(2) == 0 {
        // All of it three times.
        code.pop();
        let back = 18 - code.len() as i16 - 2;
        code.push(insn(ADD64, 9, 0, 0, 1));
        code.push(insn(0xa5, 9, 0, back, 3));
        code.push(EXIT_INSN());
        code[17].imm = 0;
    }
    code
}

#[test]
fn random_programs_do_the_same() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut shorter, mut without_numbers) = (0, 0);
    for number in 0..5_000 {
        let code = program(&mut random);
        let after = specialised(&code).unwrap_or_else(|| panic!("{number}: {:?}", shown(&code)));
        assert_eq!(
            Machine::run(&code),
            Machine::run(&after),
            "{number}:\n{:?}\n{:?}",
            shown(&code),
            shown(&after)
        );
        assert!(after.len() <= code.len());
        shorter += code.len() - after.len();
        without_numbers += usize::from(!after.iter().any(|insn| insn.code == LD_IMM64));
    }
    // Or the test would say nothing.
    assert!(shorter > 50_000 && without_numbers > 500, "{shorter} {without_numbers}");
}
