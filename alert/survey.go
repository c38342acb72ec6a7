package alert

import "fmt"

// surveyRows is how many rows a survey has at most: as many keys as most accounts have, in
// a few megabytes.
const surveyRows = 20_000

// Survey collects everything that is wrong in an account, for one alert that names all of
// it. The zero value is empty. It is not safe for concurrent use.
type Survey struct{ all gathered }

// Add adds an alert about one thing that is wrong; its first next step becomes what to do
// about it.
func (s *Survey) Add(a Alert) {
	s.all.most = surveyRows
	s.all.add(item{Alert: a, Name: a.Title + a.ID})
}

// Len is how many were added.
func (s *Survey) Len() int { return s.all.all }

// Alert makes a the alert about all that was added, at least one: with the table, the worst
// first, the worst severity and the commands that put things right. group is what was
// surveyed, and the thread that the alert belongs to.
func (s *Survey) Alert(a Alert, group string) Alert {
	a.Kind, a.Digest, a.Severity, a.Thread = KindPosture, s.all.digest(group, ""), s.all.severity, group
	if a.Digest.All > 0 {
		a.Summary += fmt.Sprintf(" The table has the worst %d of them.", len(a.Digest.Calls))
	}
	return a
}
