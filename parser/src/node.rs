//! What the grammar's actions build with: nodes that know their depth, and the context that takes diagnostics.
//!
//! The depth of every tree is bounded while it is built, so that nothing that walks it recursively can overflow the
//! stack; an expression that is too deep becomes [`ExprKind::Error`] with a diagnostic.

use crate::ast::{
    Arg, AttachPoint, BinaryOp, Block, Expr, ExprKind, FieldDef, FieldType, ForRange, Ident, InSet, Item, SetElem, SizeOfArg, Stmt,
    StmtKind, TypeBody, TypeDef, TypeExpr, TypeExprKind, UnaryOp,
};
use crate::attach;
use crate::diag::{Diagnostic, SourceId, Span};
use crate::token::RawAttachPoint;

/// What one item of a script parses to.
#[derive(Debug)]
pub enum Top {
    Item(Item),
    Type(TypeDef),
}

/// `*name[3][4] : 5`, what follows the type in the field of a C struct.
#[derive(Debug)]
pub struct Declarator {
    pub pointers: u32,
    pub name: Option<Ident>,
    pub dims: Vec<u64>,
    pub bits: Option<u64>,
}

/// How deep a tree may be.
pub const MAX_DEPTH: u16 = 256;

/// A part of the tree with the depth of what hangs below it.
#[derive(Debug)]
pub struct Node<T> {
    pub v: T,
    pub depth: u16,
    /// An expression in parentheses of its own.
    pub paren: bool,
}

impl<T> Node<T> {
    pub fn new(v: T, depth: u16) -> Self {
        Self { v, depth, paren: false }
    }
}

/// Splits nodes into their values and the depth of the deepest.
pub fn unzip<T>(nodes: Vec<Node<T>>) -> (Vec<T>, u16) {
    let depth = nodes.iter().map(|node| node.depth).max().unwrap_or(0);
    (nodes.into_iter().map(|node| node.v).collect(), depth)
}

/// `a op b op c …` before precedence is applied; kept flat so that the LR tables stay small.
#[derive(Debug)]
pub struct Flat {
    first: Node<Expr>,
    rest: Vec<FlatRest>,
}

#[derive(Debug)]
enum FlatRest {
    Op(BinaryOp, Node<Expr>),
    /// `in (…)`, and where it ends.
    In(Node<InSet>, u32),
}

impl Flat {
    pub fn one(first: Node<Expr>) -> Self {
        Self { first, rest: Vec::new() }
    }

    pub fn op(mut self, op: BinaryOp, right: Node<Expr>) -> Self {
        self.rest.push(FlatRest::Op(op, right));
        self
    }

    pub fn within(mut self, set: Node<InSet>, end: u32) -> Self {
        self.rest.push(FlatRest::In(set, end));
        self
    }
}

/// Binding strength of the binary operators, C's. Larger binds tighter.
#[must_use]
pub fn precedence(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And => 2,
        BinaryOp::BitOr => 3,
        BinaryOp::BitXor => 4,
        BinaryOp::BitAnd => 5,
        BinaryOp::Eq | BinaryOp::Ne => 6,
        BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => IN_PRECEDENCE,
        BinaryOp::Shl | BinaryOp::Shr => 8,
        BinaryOp::Add | BinaryOp::Sub => 9,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod => 10,
    }
}

/// `in` binds like `<`.
pub const IN_PRECEDENCE: u8 = 7;

/// Names that take a size in brackets: `string[64]` is one type, not an array.
fn is_sized_name(name: &str) -> bool {
    matches!(name, "string" | "buffer" | "inet")
}

/// The depth of an expression that stands for one that was too deep.
const TOO_DEEP: u16 = MAX_DEPTH + 1;

/// Where the actions of the grammar leave their diagnostics.
#[derive(Debug)]
pub struct Context {
    source: SourceId,
    pub diagnostics: Vec<Diagnostic>,
}

impl Context {
    pub fn new(source: SourceId) -> Self {
        Self {
            source,
            diagnostics: Vec::new(),
        }
    }

    pub fn span(&self, start: u32, end: u32) -> Span {
        Span::new(self.source, start, end)
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// The depth of a node above children of this depth; reports once the tree becomes too deep.
    ///
    /// Around an expression for which that was said ([`TOO_DEEP`]) it is not said again.
    fn deeper(&mut self, span: Span, below: u16) -> Option<u16> {
        if below < MAX_DEPTH {
            return Some(below + 1);
        }
        if below > MAX_DEPTH {
            return None;
        }
        self.report(
            Diagnostic::error("too-deep", span, format!("this is nested more than {MAX_DEPTH} levels deep"))
                .help("split it up with scratch variables; for many alternatives use `x in (a, b, …)`"),
        );
        None
    }

    pub fn ident(&self, start: u32, name: &str, end: u32) -> Ident {
        Ident {
            name: name.to_owned(),
            span: self.span(start, end),
        }
    }

    /// Builds an expression above children of depth `below`.
    pub fn expr(&mut self, start: u32, end: u32, below: u16, kind: ExprKind) -> Node<Expr> {
        let span = self.span(start, end);
        match self.deeper(span, below) {
            Some(depth) => Node::new(Expr { kind, span }, depth),
            None => Node::new(
                Expr {
                    kind: ExprKind::Error,
                    span,
                },
                TOO_DEEP,
            ),
        }
    }

    pub fn paren(&mut self, start: u32, inner: Node<Expr>, end: u32) -> Node<Expr> {
        let span = self.span(start, end);
        Node {
            v: Expr { span, ..inner.v },
            depth: inner.depth,
            paren: true,
        }
    }

    pub fn unary(&mut self, start: u32, op: UnaryOp, operand: Node<Expr>, end: u32) -> Node<Expr> {
        self.expr(
            start,
            end,
            operand.depth,
            ExprKind::Unary {
                op,
                expr: Box::new(operand.v),
            },
        )
    }

    pub fn inc_dec(&mut self, start: u32, operand: Node<Expr>, end: u32, increment: bool, postfix: bool) -> Node<Expr> {
        let word = if increment { "++" } else { "--" };
        self.check_target(&operand.v, &format!("`{word}`"));
        self.expr(
            start,
            end,
            operand.depth,
            ExprKind::IncDec {
                expr: Box::new(operand.v),
                increment,
                postfix,
            },
        )
    }

    /// Applies precedence to a flat chain of operators.
    pub fn resolve(&mut self, flat: Flat) -> Node<Expr> {
        let Flat { first, rest } = flat;
        if rest.is_empty() {
            return first;
        }
        let mut operands = vec![first];
        let mut operators: Vec<BinaryOp> = Vec::new();
        for step in rest {
            let strength = match &step {
                FlatRest::Op(op, _) => precedence(*op),
                FlatRest::In(..) => IN_PRECEDENCE,
            };
            while operators.last().is_some_and(|op| precedence(*op) >= strength) {
                self.apply(&mut operands, &mut operators);
            }
            match step {
                FlatRest::Op(op, right) => {
                    operators.push(op);
                    operands.push(right);
                }
                FlatRest::In(set, end) => {
                    if let Some(value) = operands.pop() {
                        let below = value.depth.max(set.depth);
                        let start = value.v.span.start;
                        let kind = ExprKind::In {
                            value: Box::new(value.v),
                            set: set.v,
                        };
                        let node = self.expr(start, end, below, kind);
                        operands.push(node);
                    }
                }
            }
        }
        while !operators.is_empty() {
            self.apply(&mut operands, &mut operators);
        }
        operands.pop().expect("a chain of operators leaves one operand")
    }

    fn apply(&mut self, operands: &mut Vec<Node<Expr>>, operators: &mut Vec<BinaryOp>) {
        if let (Some(op), Some(right), Some(left)) = (operators.pop(), operands.pop(), operands.pop()) {
            let (start, end) = (left.v.span.start, right.v.span.end);
            let below = left.depth.max(right.depth);
            let kind = ExprKind::Binary {
                op,
                left: Box::new(left.v),
                right: Box::new(right.v),
            };
            let node = self.expr(start, end, below, kind);
            operands.push(node);
        }
    }

    pub fn ternary(&mut self, cond: Node<Expr>, then: Node<Expr>, otherwise: Node<Expr>) -> Node<Expr> {
        let below = cond.depth.max(then.depth).max(otherwise.depth);
        let (start, end) = (cond.v.span.start, otherwise.v.span.end);
        let kind = ExprKind::Ternary {
            cond: Box::new(cond.v),
            then: Box::new(then.v),
            otherwise: Box::new(otherwise.v),
        };
        self.expr(start, end, below, kind)
    }

    /// `base[keys]`: the key of a map, or an index.
    pub fn index(&mut self, base: Node<Expr>, keys: Vec<Node<Expr>>, end: u32) -> Node<Expr> {
        let start = base.v.span.start;
        let (mut keys, key_depth) = unzip(keys);
        let below = base.depth.max(key_depth);
        match base.v.kind {
            ExprKind::Map { name, keys: None } if !base.paren => {
                if keys.is_empty() {
                    let span = self.span(start, end);
                    self.report(
                        Diagnostic::error("empty-key", span, format!("the key of `@{name}` is empty"))
                            .help(format!("write `@{name}` or `@{name}[key]`")),
                    );
                }
                self.expr(start, end, key_depth, ExprKind::Map { name, keys: Some(keys) })
            }
            // A native's map: `@a.m[k, l]` has one key of two parts.
            ExprKind::Field {
                base: ref map,
                arrow: false,
                ..
            } if keys.len() > 1 && matches!(map.kind, ExprKind::Map { keys: None, .. }) => {
                let parts = self.span(keys[0].span.start, end);
                let index = Box::new(Expr {
                    kind: ExprKind::Tuple(keys),
                    span: parts,
                });
                let base = Box::new(base.v);
                self.expr(start, end, below, ExprKind::Index { base, index })
            }
            _ => {
                if keys.len() != 1 {
                    let span = self.span(base.v.span.end, end);
                    self.report(
                        Diagnostic::error("bad-index", span, format!("expected one index, found {}", keys.len()))
                            .help("only maps take several keys: `@m[a, b]`"),
                    );
                }
                let index = keys.pop().unwrap_or(Expr {
                    kind: ExprKind::Error,
                    span: self.span(end, end),
                });
                self.expr(
                    start,
                    end,
                    below,
                    ExprKind::Index {
                        base: Box::new(base.v),
                        index: Box::new(index),
                    },
                )
            }
        }
    }

    pub fn tuple_index(&mut self, base: Node<Expr>, index: u64, at: u32, end: u32) -> Node<Expr> {
        let index = u32::try_from(index).unwrap_or_else(|_| {
            let span = self.span(at, end);
            self.report(Diagnostic::error(
                "bad-index",
                span,
                format!("the tuple index `{index}` is too large"),
            ));
            0
        });
        self.expr(
            base.v.span.start,
            end,
            base.depth,
            ExprKind::TupleIndex {
                base: Box::new(base.v),
                index,
            },
        )
    }

    pub fn call(&mut self, start: u32, name: Ident, args: Vec<Node<Arg>>, end: u32) -> Node<Expr> {
        let (args, depth) = unzip(args);
        self.expr(start, end, depth, ExprKind::Call { name, args })
    }

    /// `(a = 1, b = 2)`
    pub fn record(&mut self, start: u32, fields: Vec<(Ident, Node<Expr>)>, end: u32) -> Node<Expr> {
        let depth = fields.iter().map(|(_, node)| node.depth).max().unwrap_or(0);
        let mut seen: Vec<(Ident, Expr)> = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            if let Some((first, _)) = seen.iter().find(|(other, _)| other.name == name.name) {
                let first = first.span;
                self.report(
                    Diagnostic::error("duplicate-field", name.span, format!("the field `{}` is there already", name.name))
                        .with(first, "first here"),
                );
            }
            seen.push((name, value.v));
        }
        self.expr(start, end, depth, ExprKind::Record(seen))
    }

    /// One element of `in (…)`: `LITERAL - LITERAL` without parentheses of its own is a range.
    pub fn set_elem(&mut self, node: Node<Expr>) -> Node<SetElem> {
        let depth = node.depth;
        let elem = match node.v.kind {
            ExprKind::Binary {
                op: BinaryOp::Sub,
                left,
                right,
            } if !node.paren && is_literal(&left) && is_literal(&right) => {
                self.check_range(&left, &right, node.v.span);
                SetElem::Range(*left, *right)
            }
            kind => SetElem::One(Expr { kind, span: node.v.span }),
        };
        Node::new(elem, depth)
    }

    fn check_range(&mut self, low: &Expr, high: &Expr, span: Span) {
        let empty = match (&low.kind, &high.kind) {
            (ExprKind::Int(low), ExprKind::Int(high)) | (ExprKind::Duration(low), ExprKind::Duration(high)) => low > high,
            (ExprKind::Ipv4(low), ExprKind::Ipv4(high)) => low > high,
            _ => false,
        };
        if empty {
            self.report(
                Diagnostic::error("empty-range", span, "this range is empty: its first end is above its last")
                    .help("`lo-hi` includes both ends; for a subtraction write it in parentheses of its own"),
            );
        }
    }

    pub fn set(&mut self, elems: Vec<Node<SetElem>>) -> Node<InSet> {
        let (elems, depth) = unzip(elems);
        Node::new(InSet::List(elems), depth)
    }

    pub fn type_expr(&mut self, start: u32, end: u32, below: u16, kind: TypeExprKind) -> Node<TypeExpr> {
        let span = self.span(start, end);
        match self.deeper(span, below) {
            Some(depth) => Node::new(TypeExpr { kind, span }, depth),
            None => Node::new(
                TypeExpr {
                    kind: TypeExprKind::Name("void".to_owned()),
                    span,
                },
                1,
            ),
        }
    }

    /// `u32`, or several words: `unsigned long long`, `const char`.
    pub fn type_name(&mut self, start: u32, words: &[&str], end: u32) -> Node<TypeExpr> {
        let kind = match words {
            ["unsigned"] => TypeExprKind::Name("uint32".to_owned()),
            [name] => TypeExprKind::Name((*name).to_owned()),
            _ => match c_integer(words) {
                Some(name) => TypeExprKind::Name(name),
                None => {
                    let span = self.span(start, end);
                    self.report(
                        Diagnostic::error("bad-type", span, format!("`{}` is no type", words.join(" ")))
                            .help("a type is one name, or `struct name`"),
                    );
                    TypeExprKind::Name(words.last().copied().unwrap_or("void").to_owned())
                }
            },
        };
        self.type_expr(start, end, 0, kind)
    }

    /// `t[n]`; `size` 0 stands for `t[]`.
    pub fn type_array(&mut self, of: Node<TypeExpr>, size: u64, end: u32) -> Node<TypeExpr> {
        let start = of.v.span.start;
        let kind = match of.v.kind {
            TypeExprKind::Name(name) if is_sized_name(&name) => TypeExprKind::Sized(name, size),
            _ => TypeExprKind::Array(Box::new(of.v), size),
        };
        self.type_expr(start, end, of.depth, kind)
    }

    pub fn type_arg(&mut self, ty: Node<TypeExpr>) -> Node<Arg> {
        let (start, end) = (ty.v.span.start, ty.v.span.end);
        let value = self.expr(start, end, ty.depth, ExprKind::TypeOf(SizeOfArg::Type(ty.v)));
        Node::new(
            Arg {
                name: None,
                value: value.v,
            },
            value.depth,
        )
    }

    pub fn stmt(&mut self, start: u32, end: u32, below: u16, kind: StmtKind) -> Node<Stmt> {
        let span = self.span(start, end);
        match self.deeper(span, below) {
            Some(depth) => Node::new(Stmt { kind, span }, depth),
            None => Node::new(
                Stmt {
                    kind: StmtKind::Block(Block { span, ..Block::default() }),
                    span,
                },
                1,
            ),
        }
    }

    pub fn assign(&mut self, target: Node<Expr>, op: Option<BinaryOp>, value: Node<Expr>) -> Node<Stmt> {
        let (start, end) = (target.v.span.start, value.v.span.end);
        let what = op.map_or("`=`".to_owned(), |op| format!("`{}=`", op.symbol()));
        self.check_target(&target.v, &what);
        let below = target.depth.max(value.depth);
        self.stmt(
            start,
            end,
            below,
            StmtKind::Assign {
                target: target.v,
                op,
                value: value.v,
            },
        )
    }

    /// Reports what can never be assigned to, whatever its names mean.
    fn check_target(&mut self, target: &Expr, what: &str) {
        let named = match &target.kind {
            ExprKind::Var(_)
            | ExprKind::Map { .. }
            | ExprKind::Name(_)
            | ExprKind::Field { .. }
            | ExprKind::Index { .. }
            | ExprKind::Error => return,
            ExprKind::TupleIndex { .. } => "an element of a tuple",
            ExprKind::Int(_) | ExprKind::Duration(_) | ExprKind::Str(_) | ExprKind::Bool(_) => "a literal",
            ExprKind::Ipv4(_) | ExprKind::Ipv4Prefix(..) => "an address",
            ExprKind::Call { .. } => "the result of a call",
            ExprKind::Param(_) | ExprKind::ParamCount => "a parameter of the script",
            _ => "this expression",
        };
        let mut diagnostic = Diagnostic::error("bad-target", target.span, format!("{what} cannot change {named}"))
            .help("only `$variables`, `@maps` and packet fields can be assigned");
        if matches!(target.kind, ExprKind::Binary { op: BinaryOp::Eq, .. }) {
            diagnostic = diagnostic.help("`==` compares, `=` assigns");
        }
        self.report(diagnostic);
    }

    /// `{ stmts value }`
    pub fn block(&mut self, start: u32, body: (Vec<Node<Stmt>>, Option<Node<Expr>>), end: u32) -> Node<Block> {
        let (stmts, depth) = unzip(body.0);
        let depth = depth.max(body.1.as_ref().map_or(0, |value| value.depth));
        let value = body.1.map(|value| Box::new(value.v));
        Node::new(
            Block {
                stmts,
                value,
                span: self.span(start, end),
            },
            depth,
        )
    }

    /// The last statement of a block, written without `;`: an expression is the block's value.
    pub fn body(mut stmts: Vec<Node<Stmt>>, last: Option<Node<Stmt>>) -> (Vec<Node<Stmt>>, Option<Node<Expr>>) {
        match last {
            Some(Node {
                v: Stmt {
                    kind: StmtKind::Expr(value),
                    ..
                },
                depth,
                ..
            }) => return (stmts, Some(Node::new(value, depth))),
            Some(other) => stmts.push(other),
            None => {}
        }
        (stmts, None)
    }

    /// `else if …`: a block of the one statement.
    pub fn else_if(&mut self, stmt: Node<Stmt>) -> Node<Block> {
        let span = stmt.v.span;
        Node::new(
            Block {
                stmts: vec![stmt.v],
                value: None,
                span,
            },
            stmt.depth,
        )
    }

    pub fn block_expr(&mut self, block: Node<Block>) -> Node<Expr> {
        let (start, end) = (block.v.span.start, block.v.span.end);
        self.expr(start, end, block.depth, ExprKind::Block(Box::new(block.v)))
    }

    pub fn if_stmt(&mut self, start: u32, cond: Node<Expr>, then: Node<Block>, otherwise: Option<Node<Block>>, end: u32) -> Node<Stmt> {
        let below = cond.depth.max(then.depth).max(otherwise.as_ref().map_or(0, |block| block.depth));
        let kind = StmtKind::If {
            cond: cond.v,
            then: then.v,
            otherwise: otherwise.map(|block| block.v),
        };
        self.stmt(start, end, below, kind)
    }

    /// `if` where a value is wanted is the ternary operator on blocks.
    pub fn if_expr(&mut self, start: u32, cond: Node<Expr>, then: Node<Block>, otherwise: Node<Expr>) -> Node<Expr> {
        let then = self.block_expr(then);
        let mut node = self.ternary(cond, then, otherwise);
        node.v.span.start = start;
        node
    }

    pub fn for_stmt(&mut self, start: u32, var: Ident, range: Node<ForRange>, body: Node<Block>, end: u32) -> Node<Stmt> {
        let below = range.depth.max(body.depth);
        self.stmt(
            start,
            end,
            below,
            StmtKind::For {
                var,
                range: range.v,
                body: body.v,
            },
        )
    }

    pub fn attach_point(&mut self, raw: &RawAttachPoint<'_>) -> AttachPoint {
        attach::split(self.source, raw, &mut self.diagnostics)
    }

    /// The arguments of `use`, which all have names.
    pub fn use_params(&mut self, args: Vec<Node<Arg>>) -> Vec<(Ident, Expr)> {
        let mut params: Vec<(Ident, Expr)> = Vec::with_capacity(args.len());
        for Node {
            v: Arg { name, value }, ..
        } in args
        {
            let Some(name) = name else {
                // What went wrong there has been said.
                if matches!(value.kind, ExprKind::Error) {
                    continue;
                }
                self.report(
                    Diagnostic::error("unnamed-parameter", value.span, "a parameter of `use` needs its name")
                        .help("write `name=value`, for example `iface=\"eth0\"`"),
                );
                continue;
            };
            if let Some((first, _)) = params.iter().find(|(other, _)| other.name == name.name) {
                let first = first.span;
                self.report(
                    Diagnostic::error(
                        "duplicate-parameter",
                        name.span,
                        format!("the parameter `{}` is there already", name.name),
                    )
                    .with(first, "first here"),
                );
            }
            params.push((name, value));
        }
        params
    }

    /// The type that the words before a field's name make.
    pub fn type_words(&mut self, start: u32, words: &[Ident]) -> Node<TypeExpr> {
        let names: Vec<&str> = words.iter().map(|word| word.name.as_str()).collect();
        let end = words.last().map_or(start, |word| word.span.end);
        self.type_name(start, &names, end)
    }

    /// `unsigned int a, *b;` and `int : 4;`: the last word is the first name.
    pub fn plain_fields(
        &mut self,
        start: u32,
        mut words: Vec<Ident>,
        tail: (Vec<u64>, Option<u64>),
        more: Vec<Declarator>,
    ) -> Vec<Node<FieldDef>> {
        let unnamed = words.len() == 1;
        let name = if unnamed { None } else { words.pop() };
        if unnamed && tail.1.is_none() {
            let span = words[0].span;
            self.report(
                Diagnostic::error(
                    "unnamed-field",
                    span,
                    format!("this field of the type `{}` has no name", words[0].name),
                )
                .help("write `type name;`"),
            );
        }
        let base = self.type_words(start, &words);
        self.fields(
            base,
            Declarator {
                pointers: 0,
                name,
                dims: tail.0,
                bits: tail.1,
            },
            more,
        )
    }

    /// Builds the definition of a C type above fields of depth `below`.
    pub fn type_def(
        &mut self,
        start: u32,
        end: u32,
        name: Option<Ident>,
        body: TypeBody,
        packed: Option<bool>,
        below: u16,
    ) -> Node<TypeDef> {
        let span = self.span(start, end);
        let packed = packed.unwrap_or(false);
        match self.deeper(span, below) {
            Some(depth) => Node::new(TypeDef { name, body, packed, span }, depth),
            None => Node::new(
                TypeDef {
                    name,
                    body: TypeBody::Struct(Vec::new()),
                    packed,
                    span,
                },
                1,
            ),
        }
    }

    /// All fields that one type stands before.
    pub fn fields(&mut self, base: Node<TypeExpr>, first: Declarator, more: Vec<Declarator>) -> Vec<Node<FieldDef>> {
        let mut fields = Vec::with_capacity(1 + more.len());
        for declarator in std::iter::once(first).chain(more) {
            let (start, mut depth) = (base.v.span.start, base.depth);
            let mut ty = base.v.clone();
            let end = declarator.name.as_ref().map_or(ty.span.end, |name| name.span.end);
            for _ in 0..declarator.pointers {
                let node = self.type_expr(start, ty.span.end, depth, TypeExprKind::Pointer(Box::new(ty)));
                (ty, depth) = (node.v, node.depth);
            }
            for size in declarator.dims.iter().rev() {
                let node = self.type_expr(start, ty.span.end, depth, TypeExprKind::Array(Box::new(ty), *size));
                (ty, depth) = (node.v, node.depth);
            }
            let field = FieldDef {
                name: declarator.name,
                ty: FieldType::Type(ty),
                bits: declarator.bits,
                span: self.span(start, end),
            };
            fields.push(Node::new(field, depth));
        }
        fields
    }

    /// `struct { … } a, b[2];`, or without a name.
    pub fn inline_fields(&mut self, def: Node<TypeDef>, first: Option<Declarator>, more: Vec<Declarator>) -> Vec<Node<FieldDef>> {
        let Node { v: def, depth, .. } = def;
        let span = def.span;
        let Some(first) = first else {
            return vec![Node::new(
                FieldDef {
                    name: None,
                    ty: FieldType::Inline(Box::new(def), Vec::new()),
                    bits: None,
                    span,
                },
                depth,
            )];
        };
        let mut fields = Vec::new();
        let copies = std::iter::repeat_n(def, 1 + more.len());
        for (declarator, def) in std::iter::once(first).chain(more).zip(copies) {
            let end = declarator.name.as_ref().map_or(span.end, |name| name.span.end);
            let span = self.span(span.start, end);
            if declarator.pointers > 0 || declarator.bits.is_some() {
                self.report(
                    Diagnostic::error("bad-field", span, "a type defined in place can only be a field or an array of it")
                        .help("define the type by itself first"),
                );
            }
            let ty = FieldType::Inline(Box::new(def), declarator.dims);
            fields.push(Node::new(
                FieldDef {
                    name: declarator.name,
                    ty,
                    bits: None,
                    span,
                },
                depth,
            ));
        }
        fields
    }

    /// Only qualifiers stand before `struct`.
    pub fn check_qualifiers(&mut self, words: Option<Vec<Ident>>) {
        for word in words.unwrap_or_default() {
            if !matches!(word.name.as_str(), "const" | "volatile") {
                self.report(Diagnostic::error(
                    "bad-type",
                    word.span,
                    format!("`{}` cannot stand before another type", word.name),
                ));
            }
        }
    }

    /// A string that must be text: the path of an `import`.
    pub fn text(&mut self, start: u32, bytes: &[u8], end: u32) -> String {
        String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| {
            let span = self.span(start, end);
            self.report(Diagnostic::error("bad-text", span, "this string is not valid UTF-8"));
            String::from_utf8_lossy(bytes).into_owned()
        })
    }
}

fn is_literal(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Int(_) | ExprKind::Duration(_) | ExprKind::Str(_) | ExprKind::Ipv4(_) => true,
        ExprKind::Unary { op: UnaryOp::Neg, expr } => matches!(expr.kind, ExprKind::Int(_)),
        _ => false,
    }
}

/// C's integer types of several words; `const` and `volatile` do not matter here.
fn c_integer(words: &[&str]) -> Option<String> {
    let words: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| !matches!(*word, "const" | "volatile"))
        .collect();
    if let [name] = words.as_slice() {
        return Some((*name).to_owned());
    }
    let unsigned = words.contains(&"unsigned");
    let longs = words.iter().filter(|word| **word == "long").count();
    if !words
        .iter()
        .all(|word| matches!(*word, "unsigned" | "signed" | "long" | "short" | "int" | "char"))
    {
        return None;
    }
    let bits = if words.contains(&"char") {
        8
    } else if words.contains(&"short") {
        16
    } else if longs > 0 {
        64
    } else {
        32
    };
    Some(format!("{}int{bits}", if unsigned { "u" } else { "" }))
}
