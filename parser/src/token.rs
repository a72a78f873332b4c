//! Tokens: what logos recognises, and what the passes over the tokens add for the grammar.

use std::borrow::Cow;

use logos::Logos;

use crate::ast::BinaryOp;

/// A token with its bytes `start..end` in the source text.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'s> {
    pub tok: Tok<'s>,
    pub start: u32,
    pub end: u32,
}

/// The bytes of an IPv4 address (an alias, because LALRPOP reads no array types).
pub type Octets = [u8; 4];

/// One attach point as written; split in [`crate::attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttachPoint<'s> {
    /// Name and offset of the `name` of `name=probe`.
    pub label: Option<(&'s str, u32)>,
    /// Everything after the label.
    pub text: &'s str,
    /// Where `text` starts.
    pub text_start: u32,
}

/// Blanks and comments are skipped by the lexer's driver, so that it can also stop at attach points and directives.
#[derive(Logos, Clone, Debug, PartialEq)]
pub enum Tok<'s> {
    // Words.
    #[regex("[A-Za-z_][A-Za-z0-9_]*", |lex| lex.slice())]
    Name(&'s str),
    #[regex(r"\$[A-Za-z_][A-Za-z0-9_]*", |lex| &lex.slice()[1..])]
    Var(&'s str),
    #[regex("@([A-Za-z_][A-Za-z0-9_]*)?", |lex| &lex.slice()[1..])]
    Map(&'s str),
    /// `$1`, digits only; turned into `Param`.
    #[regex(r"\$[0-9]+", |lex| &lex.slice()[1..])]
    RawParam(&'s str),
    #[token("$#")]
    ParamCount,
    /// Turned into `Int`, `Duration`, `Ipv4` or `Prefix`.
    #[regex("[0-9][0-9A-Za-z_]*", |lex| lex.slice())]
    RawNumber(&'s str),
    /// The opening quote; turned into `Str`.
    #[token("\"")]
    Quote,

    #[token("if")]
    If,
    #[token("else")]
    Else,
    #[token("while")]
    While,
    #[token("for")]
    For,
    #[token("unroll")]
    Unroll,
    #[token("return")]
    Return,
    #[token("break")]
    Break,
    #[token("continue")]
    Continue,
    #[token("let")]
    Let,
    #[token("sizeof")]
    SizeOf,
    #[token("offsetof")]
    OffsetOf,
    #[token("typeof")]
    TypeOf,
    #[token("struct")]
    Struct,
    #[token("union")]
    Union,
    #[token("enum")]
    Enum,
    #[token("__attribute__")]
    Attribute,
    #[token("true", |_| true)]
    #[token("false", |_| false)]
    Bool(bool),

    // Punctuation.
    #[token("(")]
    LParen,
    #[token(")")]
    RParen,
    #[token("[")]
    LBracket,
    #[token("]")]
    RBracket,
    #[token("{")]
    LBrace,
    #[token("}")]
    RBrace,
    #[token(",")]
    Comma,
    #[token(";")]
    Semi,
    #[token(":")]
    Colon,
    #[token("?")]
    Question,
    #[token(".")]
    Dot,
    #[token("..")]
    DotDot,
    #[token("->")]
    Arrow,
    #[token("=")]
    Assign,
    #[token("+=", |_| BinaryOp::Add)]
    #[token("-=", |_| BinaryOp::Sub)]
    #[token("*=", |_| BinaryOp::Mul)]
    #[token("/=", |_| BinaryOp::Div)]
    #[token("%=", |_| BinaryOp::Mod)]
    #[token("&=", |_| BinaryOp::BitAnd)]
    #[token("|=", |_| BinaryOp::BitOr)]
    #[token("^=", |_| BinaryOp::BitXor)]
    #[token("<<=", |_| BinaryOp::Shl)]
    #[token(">>=", |_| BinaryOp::Shr)]
    AssignOp(BinaryOp),
    /// The operators that are only binary.
    #[token("/", |_| BinaryOp::Div)]
    #[token("%", |_| BinaryOp::Mod)]
    #[token("|", |_| BinaryOp::BitOr)]
    #[token("^", |_| BinaryOp::BitXor)]
    #[token("<<", |_| BinaryOp::Shl)]
    #[token(">>", |_| BinaryOp::Shr)]
    #[token("&&", |_| BinaryOp::And)]
    #[token("||", |_| BinaryOp::Or)]
    #[token("==", |_| BinaryOp::Eq)]
    #[token("!=", |_| BinaryOp::Ne)]
    #[token("<", |_| BinaryOp::Lt)]
    #[token("<=", |_| BinaryOp::Le)]
    #[token(">", |_| BinaryOp::Gt)]
    #[token(">=", |_| BinaryOp::Ge)]
    BinOp(BinaryOp),
    #[token("+")]
    Plus,
    #[token("-")]
    Minus,
    #[token("*")]
    Star,
    #[token("&")]
    Amp,
    #[token("!")]
    Bang,
    #[token("~")]
    Tilde,
    #[token("++")]
    PlusPlus,
    #[token("--")]
    MinusMinus,

    // From here on: made by the passes, never by logos.
    Param(u32),
    Int(u64),
    Duration(u64),
    Str(Cow<'s, [u8]>),
    Ipv4(Octets),
    /// Address and length.
    Prefix((Octets, u8)),
    AttachPoint(RawAttachPoint<'s>),
    PredStart,
    PredEnd,
    /// `(` before a type in a cast, in `sizeof`, `offsetof`, `typeof`.
    CastOpen,
    /// `(` before `name =`.
    RecordOpen,
    /// `(` after `in`.
    SetOpen,
    /// `{` where an expression starts.
    BlockOpen,
    /// `if` where an expression starts.
    IfExpr,
    In,
    Limit,
    Comptime,
    Config,
    Import,
    Macro,
    Fn,
    Use,
    As,
    Define,
    /// The path of an `#include`, with its `<>` or quotes.
    Include(&'s str),
    /// Put by recovery in the place of an expression or statement that had an error.
    ErrorExpr,
    ErrorStmt,
}

impl Tok<'_> {
    /// Returns the closing token that belongs to an opening one.
    #[must_use]
    pub fn closer(&self) -> Option<Tok<'static>> {
        match self {
            Tok::LParen | Tok::CastOpen | Tok::RecordOpen | Tok::SetOpen => Some(Tok::RParen),
            Tok::LBracket => Some(Tok::RBracket),
            Tok::LBrace | Tok::BlockOpen => Some(Tok::RBrace),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_closer(&self) -> bool {
        matches!(self, Tok::RParen | Tok::RBracket | Tok::RBrace)
    }

    /// Whether an operand can end with this token, so that a binary operator or `in` can follow it.
    #[must_use]
    pub fn ends_operand(&self) -> bool {
        matches!(
            self,
            Tok::Name(_)
                | Tok::Var(_)
                | Tok::Map(_)
                | Tok::Param(_)
                | Tok::ParamCount
                | Tok::Int(_)
                | Tok::Duration(_)
                | Tok::Bool(_)
                | Tok::Str(_)
                | Tok::Ipv4(_)
                | Tok::Prefix(_)
                | Tok::RParen
                | Tok::RBracket
                | Tok::PlusPlus
                | Tok::MinusMinus
                | Tok::ErrorExpr
        )
    }

    /// Whether an expression is expected right after this token.
    #[must_use]
    pub fn wants_operand(&self) -> bool {
        matches!(
            self,
            Tok::LParen
                | Tok::RecordOpen
                | Tok::SetOpen
                | Tok::LBracket
                | Tok::Comma
                | Tok::Colon
                | Tok::Question
                | Tok::Assign
                | Tok::AssignOp(_)
                | Tok::BinOp(_)
                | Tok::Plus
                | Tok::Minus
                | Tok::Star
                | Tok::Amp
                | Tok::Bang
                | Tok::Tilde
                | Tok::DotDot
                | Tok::Return
                | Tok::PredStart
                | Tok::Comptime
        )
    }

    /// The short name printed by `-d tokens`.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            Tok::Name(_) => "name",
            Tok::Var(_) => "var",
            Tok::Map(_) => "map",
            Tok::RawParam(_) | Tok::Param(_) => "param",
            Tok::ParamCount => "param-count",
            Tok::RawNumber(_) | Tok::Int(_) => "int",
            Tok::Duration(_) => "duration",
            Tok::Quote | Tok::Str(_) => "str",
            Tok::Ipv4(_) => "ipv4",
            Tok::Prefix(_) => "prefix",
            Tok::Bool(_) => "bool",
            Tok::If | Tok::Else | Tok::While | Tok::For | Tok::Unroll | Tok::Return | Tok::Break | Tok::Continue => "keyword",
            Tok::Let | Tok::SizeOf | Tok::OffsetOf | Tok::TypeOf | Tok::Struct | Tok::Union | Tok::Enum | Tok::Attribute => "keyword",
            Tok::In | Tok::Limit | Tok::Comptime | Tok::Config | Tok::Import | Tok::Macro | Tok::Fn | Tok::Use | Tok::As => "keyword",
            Tok::IfExpr => "IF_EXPR",
            Tok::AttachPoint(_) => "attach-point",
            Tok::PredStart => "PRED_START",
            Tok::PredEnd => "PRED_END",
            Tok::CastOpen => "CAST_OPEN",
            Tok::RecordOpen => "RECORD_OPEN",
            Tok::SetOpen => "SET_OPEN",
            Tok::BlockOpen => "BLOCK_OPEN",
            Tok::Define => "define",
            Tok::Include(_) => "include",
            Tok::ErrorExpr | Tok::ErrorStmt => "error",
            _ => "punct",
        }
    }
}
