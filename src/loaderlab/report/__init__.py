"""What people look at: tables, figures, pages. Nothing here measures."""
