//! The arguments of tracepoints, as far as types tell them: for judging a script where tracefs cannot be read, or for another kernel.
//!
//! A tracepoint NAME has the typedef `btf_trace_NAME` of its prototype; its record is `struct trace_event_raw_CLASS`, where CLASS is NAME
//! or what several share (`DECLARE_EVENT_CLASS` in include/trace/trace_events.h). Which class is not written down: it is one whose
//! function `__bpf_trace_CLASS` has the same prototype. Names of system calls' arguments are in no type at all.

use super::{Btf, BtfType, TypeId};
use crate::kernel::TracepointField;

impl Btf {
    /// Returns the arguments of a tracepoint, or of a system call the six numbers that it takes, as `args`. Nothing when there is no such
    /// tracepoint.
    #[must_use]
    pub fn tracepoint(&self, category: &str, name: &str) -> Option<Vec<TracepointField>> {
        let record = match (category, name.split_once("sys_enter_"), name.split_once("sys_exit_")) {
            ("syscalls", Some(("", call)), _) if self.has_system_call(call) => "sys_enter",
            ("syscalls", _, Some(("", call))) if self.has_system_call(call) => "sys_exit",
            ("syscalls", ..) => return None,
            _ => self.class_of(name)?,
        };
        let id = self.find_struct(&format!("trace_event_raw_{record}"))?;
        let fields = self.fields(id).into_iter().filter(|(name, _)| !matches!(*name, "ent" | "__data"));
        Some(
            fields
                .map(|(name, field)| self.tracepoint_field(name, field.byte_offset(), field.ty))
                .collect(),
        )
    }

    /// A pattern of names has those that match.
    fn has_system_call(&self, name: &str) -> bool {
        name.contains(['*', '?', '['])
            || ["x64", "arm64", "se"]
                .iter()
                .any(|arch| self.find_func(&format!("__{arch}_sys_{name}")).is_some())
    }

    fn class_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let BtfType::Typedef { target, .. } = self.type_by_id(self.find_typedef(&format!("btf_trace_{name}"))?)? else {
            return None;
        };
        let BtfType::Ptr(proto) = self.type_by_id(target)? else {
            return None;
        };
        if self.find_struct(&format!("trace_event_raw_{name}")).is_some() {
            return Some(name);
        }
        let wanted = self.parameters(proto)?;
        let same = |class: &&str| {
            let function = self.type_by_id(self.find_func(&format!("__bpf_trace_{class}"))?)?;
            let BtfType::Func { proto, .. } = function else { return None };
            (self.parameters(proto)? == wanted).then_some(())
        };
        let classes = self.struct_names().filter_map(|s| s.strip_prefix("trace_event_raw_"));
        // Those of one subsystem start alike.
        let alike = |class: &&str| class.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        classes.filter(|class| same(class).is_some()).max_by_key(alike)
    }

    fn parameters(&self, proto: TypeId) -> Option<Vec<TypeId>> {
        match self.type_by_id(proto)? {
            BtfType::FuncProto(proto) => Some(proto.params().map(|p| p.ty).collect()),
            _ => None,
        }
    }

    fn tracepoint_field(&self, name: &str, offset: u32, id: TypeId) -> TracepointField {
        let resolved = self.resolved(id);
        let (elem, array) = match &resolved {
            Some(BtfType::Array(array)) => (array.elem, Some(array.len)),
            _ => (id, None),
        };
        let signed = match self.resolved(elem) {
            Some(BtfType::Int(int)) => int.signed,
            Some(BtfType::Enum(info)) => info.signed,
            _ => false,
        };
        let data_loc = name.strip_prefix("__data_loc_");
        let is_bool = matches!(self.resolved(elem), Some(BtfType::Int(int)) if int.name == "_Bool");
        TracepointField {
            name: data_loc.unwrap_or(name).to_owned(),
            ty: if is_bool { "bool".to_owned() } else { self.c_name(elem) },
            offset,
            size: self.size_of(id).unwrap_or(8),
            signed,
            array,
            data_loc: data_loc.is_some(),
        }
    }
}
