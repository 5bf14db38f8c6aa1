//! Lets a planted bug reach the parts of a protocol. Each rule that a bug can break has a name, and
//! the parts ask whether it holds. Outside of tests each answer is the constant `true`, so the
//! calls compile to nothing.

/// Declares a protocol's `Rules`: for each rule its name and the `Plant` that breaks it.
macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $plant:ident;)*) => {
        /// Which rules hold.
        #[derive(Clone, Copy, Debug, Default)]
        pub(super) struct Rules {
            #[cfg(test)]
            pub(super) broken: Option<super::Plant>,
        }

        impl Rules {
            $(
                $(#[$doc])*
                #[cfg(test)]
                pub(super) fn $name(self) -> bool {
                    self.broken != Some(super::Plant::$plant)
                }

                $(#[$doc])*
                #[cfg(not(test))]
                pub(super) const fn $name(self) -> bool {
                    true
                }
            )*
        }
    };
}

pub(crate) use rules;
