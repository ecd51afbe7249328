"""HTML that needs nothing but itself: elements, tables and the frame that every page of a report shares."""
