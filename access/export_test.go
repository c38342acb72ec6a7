package access

// Remembered is how much a review remembers of conditions, and MaxRemembered the bound when
// the next key is asked about.
func (r *Review) Remembered() int { return len(r.verdicts) + len(r.atoms) }

const MaxRemembered = maxRemembered
