package events

// Use is a CloudTrail record with the encryption contexts that the call named.
type Use struct {
	Event
	// Context is requestParameters.encryptionContext, of ReEncrypt the source's; Destination
	// is the destination's of ReEncrypt. Callers choose both. They are nil where the record
	// has none.
	Context, Destination map[string]string
}

// ParseUse decodes a CloudTrail record without an envelope, as [Parse] does, with its
// encryption contexts.
func ParseUse(record []byte) (Use, error) {
	e, err := Parse(record)
	u := Use{Event: e}
	if err != nil {
		return u, err
	}
	s := scan(string(record))
	for name := range s.members {
		if name != "requestParameters" {
			continue
		}
		for name := range s.members {
			switch name {
			case "encryptionContext", "sourceEncryptionContext":
				u.Context = s.context()
			case "destinationEncryptionContext":
				u.Destination = s.context()
			}
		}
	}
	return u, nil
}

// context reads an object whose values are texts; nil where there is none.
func (s *scanner) context() (c map[string]string) {
	for name := range s.members {
		if len(c) == maxList {
			continue
		}
		if value := s.string(); value != "" {
			if c == nil {
				c = map[string]string{}
			}
			c[name] = value
		}
	}
	return c
}
