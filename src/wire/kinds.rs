//! The macro that encodes and decodes the protocols' messages and records.

/// Generates both directions from one table: the kind byte, the variant, its fields in the order of
/// their bytes, and the flaw if they contradict each other. The fields are checked before the value
/// is built, because messages are large and moving one costs as much as decoding it.
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
