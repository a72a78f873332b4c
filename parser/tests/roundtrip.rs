//! Formatting loses nothing: `parse(pretty(tree)) == tree`, spans apart, over the cases and over generated trees.

mod support;

use proptest::prelude::*;
use support::without_spans;
use weir_parser::ast::{
    Arg, AttachPoint, BinaryOp, Block, Config, Define, Expr, ExprKind, FnDef, ForRange, Ident, InSet, Item, Macro, MacroParam, MapDecl,
    Probe, Program, SetElem, SizeOfArg, Stmt, StmtKind, TypeExpr, TypeExprKind, UnaryOp, Use,
};
use weir_parser::{SourceId, Span, dump, parse, pretty};

#[test]
fn cases() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("cases") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "weir") {
            let first = parse(SourceId(0), &std::fs::read_to_string(&path).expect("case")).program;
            let text = pretty(&first);
            let second = parse(SourceId(0), &text);
            assert_eq!(second.diagnostics, [], "{}\n{text}", path.display());
            assert_eq!(without_spans(&second.program), without_spans(&first), "{}\n{text}", path.display());
            assert_eq!(pretty(&second.program), text, "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 18, "only {count} cases");
}

fn span() -> Span {
    Span::default()
}

fn ident(name: String) -> Ident {
    Ident { name, span: span() }
}

/// Names that are no keywords. Lower-case ones of one letter are types, the others values.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z][a-z0-9_]{0,6}".prop_filter("keyword", |name| !is_keyword(name)),
        1 => "[A-Z][A-Z_]{0,6}",
        2 => prop::sample::select(vec!["pid", "comm", "arg0", "tcp", "ip", "nsecs", "as", "has", "use", "limit"]).prop_map(str::to_owned),
    ]
}

/// The name of a field or parameter: any word.
fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => name(), 1 => prop::sample::select(vec!["in", "if", "struct", "true", "let", "sizeof"]).prop_map(str::to_owned)]
}

fn is_keyword(name: &str) -> bool {
    [
        "if", "else", "while", "for", "unroll", "return", "break", "continue", "let", "sizeof", "offsetof", "typeof", "struct", "union",
        "enum", "true", "false", "comptime", "import", "macro", "fn", "begin", "end",
    ]
    .contains(&name)
}

/// Names where a type is certain, and names of values, for the places where the first of two meanings is decided by it.
fn type_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["u8", "uint64", "pid_t", "int32", "bool", "inet", "string", "buffer"]).prop_map(str::to_owned)
}

fn type_expr() -> impl Strategy<Value = TypeExpr> {
    let base = prop_oneof![
        type_name().prop_map(TypeExprKind::Name),
        "[a-z]{1,5}"
            .prop_filter("keyword", |name| !is_keyword(name))
            .prop_map(TypeExprKind::Struct),
        "[a-z]{1,5}"
            .prop_filter("keyword", |name| !is_keyword(name))
            .prop_map(TypeExprKind::Union),
        "[a-z]{1,5}"
            .prop_filter("keyword", |name| !is_keyword(name))
            .prop_map(TypeExprKind::Enum),
        "[a-z]{1,5}"
            .prop_filter("keyword", |name| !is_keyword(name))
            .prop_map(|name| TypeExprKind::TypeOf(Box::new(expr_of(ExprKind::Var(name))))),
        (prop::sample::select(vec!["string", "buffer"]), 0..100u64).prop_map(|(name, size)| TypeExprKind::Sized(name.to_owned(), size)),
    ]
    .prop_map(|kind| TypeExpr { kind, span: span() });
    base.prop_recursive(3, 4, 1, |inner| {
        prop_oneof![
            inner.clone().prop_map(|ty| TypeExprKind::Pointer(Box::new(ty))),
            (inner, 0..9u64).prop_map(|(ty, size)| match ty.kind {
                // `string[4]` is one type, not an array of strings.
                TypeExprKind::Name(name) if matches!(name.as_str(), "string" | "buffer" | "inet") => TypeExprKind::Sized(name, size),
                _ => TypeExprKind::Array(Box::new(ty), size),
            }),
        ]
        .prop_map(|kind| TypeExpr { kind, span: span() })
    })
}

fn expr_of(kind: ExprKind) -> Expr {
    Expr { kind, span: span() }
}

fn literal() -> impl Strategy<Value = ExprKind> {
    prop_oneof![
        any::<u64>().prop_map(ExprKind::Int),
        any::<u64>().prop_map(ExprKind::Duration),
        any::<[u8; 4]>().prop_map(ExprKind::Ipv4),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(ExprKind::Str),
    ]
}

fn binary_op() -> impl Strategy<Value = BinaryOp> {
    use BinaryOp::{Add, And, BitAnd, BitOr, BitXor, Div, Eq, Ge, Gt, Le, Lt, Mod, Mul, Ne, Or, Shl, Shr, Sub};
    prop::sample::select(vec![
        Add, Sub, Mul, Div, Mod, BitAnd, BitOr, BitXor, Shl, Shr, And, Or, Eq, Ne, Lt, Le, Gt, Ge,
    ])
}

fn atom() -> impl Strategy<Value = ExprKind> {
    prop_oneof![
        literal(),
        any::<bool>().prop_map(ExprKind::Bool),
        "[ -~é\n\t]{0,10}".prop_map(|text| ExprKind::Str(text.into_bytes())),
        (any::<u32>(), 0..=32u8).prop_map(|(address, length)| {
            let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
            ExprKind::Ipv4Prefix((address & mask).to_be_bytes(), length)
        }),
        name().prop_map(ExprKind::Name),
        "[a-z_][a-z0-9]{0,4}".prop_map(ExprKind::Var),
        (1..99u32).prop_map(ExprKind::Param),
        Just(ExprKind::ParamCount),
        "[a-z]{0,4}".prop_map(|name| ExprKind::Map { name, keys: None }),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = atom().prop_map(expr_of);
    leaf.prop_recursive(5, 40, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let list = prop::collection::vec(inner.clone(), 1..4);
        let target = prop_oneof![
            "[a-z]{1,4}".prop_map(ExprKind::Var),
            ("[a-z]{0,4}", list.clone()).prop_map(|(name, keys)| ExprKind::Map { name, keys: Some(keys) }),
            ("[a-z]{1,4}", field_name()).prop_map(|(base, field)| ExprKind::Field {
                base: Box::new(expr_of(ExprKind::Var(base))),
                name: ident(field),
                arrow: true
            }),
        ]
        .prop_map(|kind| Box::new(expr_of(kind)));
        let unary = prop::sample::select(vec![UnaryOp::Not, UnaryOp::BitNot, UnaryOp::Neg, UnaryOp::Plus, UnaryOp::Deref, UnaryOp::AddrOf]);
        let arg = (prop::option::of(field_name().prop_map(ident)), inner.clone()).prop_map(|(name, value)| Arg { name, value });
        let elem = prop_oneof![
            3 => inner.clone().prop_map(SetElem::One),
            1 => (literal(), literal()).prop_map(|(low, high)| {
                let ordered = match (&low, &high) {
                    (ExprKind::Int(a), ExprKind::Int(b)) | (ExprKind::Duration(a), ExprKind::Duration(b)) => a <= b,
                    (ExprKind::Ipv4(a), ExprKind::Ipv4(b)) => a <= b,
                    _ => true,
                };
                if ordered { SetElem::Range(expr_of(low), expr_of(high)) } else { SetElem::Range(expr_of(high), expr_of(low)) }
            }),
        ];
        let size_of = prop_oneof![
            type_expr().prop_map(SizeOfArg::Type),
            boxed.clone().prop_filter("a bare name or array would be a type", |expr| !looks_like_type(expr)).prop_map(SizeOfArg::Expr),
        ];
        prop_oneof![
            4 => (binary_op(), boxed.clone(), boxed.clone()).prop_map(|(op, left, right)| ExprKind::Binary { op, left, right }),
            2 => (unary, boxed.clone()).prop_map(|(op, expr)| ExprKind::Unary { op, expr }),
            1 => (boxed.clone(), boxed.clone(), boxed.clone()).prop_map(|(cond, then, otherwise)| ExprKind::Ternary { cond, then, otherwise }),
            1 => (boxed.clone(), boxed.clone()).prop_map(|(value, otherwise)| ExprKind::Elvis { value, otherwise }),
            2 => (boxed.clone(), field_name(), any::<bool>()).prop_map(|(base, field, arrow)| ExprKind::Field { base, name: ident(field), arrow }),
            1 => (boxed.clone(), 0..9u32).prop_map(|(base, index)| ExprKind::TupleIndex { base, index }),
            1 => (boxed.clone(), boxed.clone()).prop_map(|(base, index)| ExprKind::Index { base, index }),
            2 => ("[a-z]{0,4}", list.clone()).prop_map(|(name, keys)| ExprKind::Map { name, keys: Some(keys) }),
            2 => (name(), prop::collection::vec(arg, 0..3)).prop_map(|(name, args)| ExprKind::Call { name: ident(name), args }),
            1 => (target, any::<bool>(), any::<bool>()).prop_map(|(expr, increment, postfix)| ExprKind::IncDec { expr, increment, postfix }),
            1 => (type_expr(), boxed.clone()).prop_map(|(ty, expr)| ExprKind::Cast { ty, expr }),
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(ExprKind::Tuple),
            1 => prop::collection::btree_map(field_name(), inner.clone(), 1..3)
                .prop_map(|fields| ExprKind::Record(fields.into_iter().map(|(name, value)| (ident(name), value)).collect())),
            1 => (boxed.clone(), prop::collection::vec(elem, 1..4)).prop_map(|(value, elems)| ExprKind::In { value, set: InSet::List(elems) }),
            1 => (boxed.clone(), boxed.clone())
                .prop_filter("a parenthesis behind `in` is a list, a brace the body of an `if`", |(_, set)| !is_no_set(set))
                .prop_map(|(value, set)| ExprKind::In { value, set: InSet::Expr(set) }),
            1 => (prop::collection::vec(inner.clone(), 0..2), prop::option::of(boxed.clone())).prop_map(|(stmts, value)| {
                // A block that starts a statement is a statement.
                let value = value.filter(|value| plain_start(value));
                let stmts = stmts.into_iter().filter(plain_start).map(|expr| Stmt { kind: StmtKind::Expr(expr), span: span() }).collect();
                ExprKind::Block(Box::new(Block { stmts, value, span: span() }))
            }),
            1 => size_of.clone().prop_map(ExprKind::SizeOf),
            1 => size_of.prop_map(ExprKind::TypeOf),
        ]
        .prop_map(expr_of)
    })
}

/// `sizeof(x)` and `sizeof(x[1])` mean a type.
fn looks_like_type(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Name(_) | ExprKind::TypeOf(_) => true,
        ExprKind::Index { base, .. } => looks_like_type(base),
        _ => false,
    }
}

fn is_no_set(expr: &Expr) -> bool {
    let program = Program {
        items: vec![Item::Define(Define {
            name: ident("X".to_owned()),
            value: Some(unary_operand(expr)),
            span: span(),
        })],
        ..Program::default()
    };
    pretty(&program).trim_start_matches("#define X ").starts_with(['(', '{'])
}

/// What a weaker operator in the place of a unary operand looks like.
fn unary_operand(expr: &Expr) -> Expr {
    match expr.kind {
        ExprKind::Binary { .. } | ExprKind::Ternary { .. } | ExprKind::Elvis { .. } | ExprKind::In { .. } => {
            expr_of(ExprKind::Tuple(vec![]))
        }
        _ => expr.clone(),
    }
}

fn block(stmt: impl Strategy<Value = Stmt> + Clone) -> impl Strategy<Value = Block> + Clone {
    prop::collection::vec(stmt, 0..4).prop_map(|stmts| Block {
        stmts,
        value: None,
        span: span(),
    })
}

fn stmt() -> impl Strategy<Value = Stmt> + Clone {
    let simple = prop_oneof![
        3 => expr().prop_filter("a block or `limit(…)` starts a statement otherwise", plain_start).prop_map(StmtKind::Expr),
        3 => ("[a-z]{0,4}", prop::collection::vec(expr(), 1..3), prop::option::of(assign_op()), expr()).prop_map(|(name, keys, op, value)| {
            StmtKind::Assign { target: expr_of(ExprKind::Map { name, keys: Some(keys) }), op, value }
        }),
        1 => ("[a-z]{1,4}", prop::option::of(type_expr()), prop::option::of(expr()))
            .prop_map(|(name, ty, value)| StmtKind::Let { var: ident(name), ty, value }),
        1 => prop::option::of(expr()).prop_map(StmtKind::Return),
        1 => Just(StmtKind::Break),
        1 => Just(StmtKind::Continue),
    ]
    .prop_map(|kind| Stmt { kind, span: span() });
    simple
        .prop_recursive(3, 12, 3, |inner| {
            let body = block(inner);
            prop_oneof![
                (expr(), body.clone(), prop::option::of(body.clone())).prop_map(|(cond, then, otherwise)| StmtKind::If {
                    cond,
                    then,
                    otherwise
                }),
                (expr(), body.clone()).prop_map(|(cond, body)| StmtKind::While { cond, body }),
                (expr(), body.clone()).prop_map(|(count, body)| StmtKind::Unroll { count, body }),
                (expr(), body.clone()).prop_map(|(rate, body)| StmtKind::Limit { rate, body }),
                ("[a-z]{1,3}", expr(), body.clone()).prop_map(|(var, over, body)| StmtKind::For {
                    var: ident(var),
                    range: ForRange::Over(over),
                    body
                }),
                ("[a-z]{1,3}", expr(), expr(), body.clone()).prop_map(|(var, start, end, body)| StmtKind::For {
                    var: ident(var),
                    range: ForRange::Range { start, end },
                    body
                }),
                body.prop_map(StmtKind::Block),
            ]
            .prop_map(|kind| Stmt { kind, span: span() })
        })
        .boxed()
}

fn assign_op() -> impl Strategy<Value = BinaryOp> {
    use BinaryOp::{Add, BitAnd, BitOr, BitXor, Div, Mod, Mul, Shl, Shr, Sub};
    prop::sample::select(vec![Add, Sub, Mul, Div, Mod, BitAnd, BitOr, BitXor, Shl, Shr])
}

fn plain_start(expr: &Expr) -> bool {
    let text = pretty(&Program {
        items: vec![Item::Define(Define {
            name: ident("X".to_owned()),
            value: Some(expr.clone()),
            span: span(),
        })],
        ..Program::default()
    });
    !text.trim_start_matches("#define X ").starts_with('{')
}

fn item() -> impl Strategy<Value = Item> {
    let named = || prop::collection::btree_map(name(), expr(), 0..3);
    prop_oneof![
        4 => (
            prop::collection::vec(prop::sample::select(vec!["kprobe:vfs_*", "begin", "uprobe:/bin/bash:\"a b\"", "xdp:eth0", "$1", "i:ms:$1"]), 1..3),
            prop::option::of(expr()),
            block(stmt()),
            prop::option::of(expr()),
        )
            .prop_map(|(points, predicate, mut body, value)| {
                body.value = value.filter(plain_start).map(Box::new);
                let attach_points = points.into_iter().map(attach_point).collect();
                Item::Probe(Probe { attach_points, predicate, body, span: span() })
            }),
        1 => (name(), prop::option::of(expr())).prop_map(|(name, value)| Item::Define(Define { name: ident(name), value, span: span() })),
        1 => named().prop_map(|entries| Item::Config(Config { entries: entries.into_iter().map(|(n, v)| (ident(n), v)).collect(), span: span() })),
        1 => ("[a-z]{1,4}", prop::collection::vec(expr(), 0..3))
            .prop_map(|(name, args)| Item::MapDecl(MapDecl { map: ident(name), kind: ident("hash".to_owned()), args, span: span() })),
        1 => (named(), prop::option::of("[a-z]{1,4}".prop_filter("keyword", |name| !is_keyword(name)))).prop_map(|(params, alias)| Item::Use(Use {
            native: ident("blocklist".to_owned()),
            params: params.into_iter().map(|(n, v)| (ident(n), v)).collect(),
            alias: alias.map(ident),
            span: span()
        })),
        1 => (prop::collection::vec((0..3u8, "[a-z]{1,4}"), 0..3), block(stmt())).prop_map(|(params, body)| {
            let params = params
                .into_iter()
                .map(|(kind, name)| match kind {
                    0 => MacroParam::Expr(ident(format!("p_{name}"))),
                    1 => MacroParam::Var(ident(name)),
                    _ => MacroParam::Map(ident(name)),
                })
                .collect();
            Item::Macro(Macro { name: ident("m_acro".to_owned()), params, body, span: span() })
        }),
        1 => (prop::collection::vec(("[a-z]{1,4}", type_expr()), 0..3), type_expr(), block(stmt())).prop_map(|(params, ret, body)| {
            Item::Fn(FnDef {
                name: ident("f_n".to_owned()),
                params: params.into_iter().map(|(name, ty)| (ident(name), ty)).collect(),
                ret,
                body,
                span: span(),
            })
        }),
    ]
}

fn attach_point(text: &str) -> AttachPoint {
    let parts = match text {
        "uprobe:/bin/bash:\"a b\"" => vec!["uprobe", "/bin/bash", "a b"],
        _ => text.split(':').collect(),
    };
    AttachPoint {
        label: None,
        parts: parts.into_iter().map(|part| ident(part.to_owned())).collect(),
        text: text.to_owned(),
        span: span(),
    }
}

/// A generated program that shows itself as source text when a test fails.
#[derive(Clone)]
struct Script(Program);

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", pretty(&self.0), dump(&self.0))
    }
}

fn script() -> impl Strategy<Value = Script> {
    prop::collection::vec(item(), 1..4).prop_map(|items| {
        Script(Program {
            items,
            ..Program::default()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn generated(Script(first) in script()) {
        let text = pretty(&first);
        let second = parse(SourceId(0), &text);
        prop_assert_eq!(&second.diagnostics, &[], "{}", text);
        prop_assert!(without_spans(&second.program) == without_spans(&first), "{}\n{}\n{}", text, dump(&first), dump(&second.program));
    }
}
