//! Real daemons across network namespaces.
