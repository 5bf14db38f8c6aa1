//! The macro that the protocols' messages and records are encoded and decoded by.

/// Both directions from one table: the kind byte, the variant, its fields in the order of their
/// bytes, and the flaw if they contradict each other. That is looked at before the value is put
/// together: a message is large, and to move one costs as much as to decode it.
macro_rules! kinds {
    ($type:ident, $what:literal, $limits:ident:
     $($kind:literal $variant:ident $({ $($field:ident),+ })? $(($inner:ident))?
       $(refused for $flaw:expr)?;)+) => {
        impl Wire for $type {
            #[inline]
            fn encode(&self, out: &mut BytesMut) {
                match self {
                    $($type::$variant $({ $($field),+ })? $(($inner))? => {
                        out.put_u8($kind);
                        $($($field.encode(out);)+)?
                        $($inner.encode(out);)?
                    })+
                }
            }

            #[inline]
            fn decode(reader: &mut Reader<'_>) -> Result<$type, DecodeError> {
                let (start, $limits) = (reader.offset(), reader.limits());
                match reader.byte($what)? {
                    $($kind => {
                        $($(let $field = reader.read()?;)+)?
                        $(let $inner = reader.read()?;)?
                        $(if let Some(flaw) = $flaw {
                            return reader.refuse(start, flaw);
                        })?
                        Ok($type::$variant $({ $($field),+ })? $(($inner))?)
                    })+
                    kind => reader.refuse(start, Flaw::Kind { what: $what, kind }),
                }
            }
        }
    };
}

pub(super) use kinds;
