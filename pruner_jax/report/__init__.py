"""What a person looks at: report.html, viewer, progress."""
