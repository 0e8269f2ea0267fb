"""Teaching: schedule, handouts, slides, quizzes, where to go on for who fell behind, a room without internet."""
