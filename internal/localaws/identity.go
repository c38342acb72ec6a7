package localaws

import (
	"crypto/rand"
	"net"
	"net/http"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// AddIdentity makes the access key belong to the caller. Missing fields are
// filled in: AccessKeyID, AccountID with the server's account, and the rest as
// for an IAM user named after the key.
func (s *Server) AddIdentity(accessKeyID string, c wire.Caller) {
	user := s.user(accessKeyID)
	c.AccessKeyID = accessKeyID
	if c.AccountID == "" {
		c.AccountID = user.AccountID
	}
	if c.ARN == "" {
		c.Type, c.ARN, c.UserName = user.Type, user.ARN, user.UserName
	}
	if c.PrincipalID == "" {
		c.PrincipalID = user.PrincipalID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identities[accessKeyID] = c
}

// SetIdentityPolicy sets what the access key's caller may do, from the next
// request on; see wire.Caller.Allowed. Nil allows everything.
func (s *Server) SetIdentityPolicy(accessKeyID string, allowed func(action, resource string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.identities[accessKeyID]
	if !ok {
		c = s.user(accessKeyID)
	}
	c.Allowed = allowed
	s.identities[accessKeyID] = c
}

// session returns a session of the role, as a service has it that the role is passed
// to: with the policy of an identity that is a session of the same role, and
// allowed everything where there is none.
func (s *Server) session(arn, session string) wire.Caller {
	name := arn[strings.LastIndexByte(arn, '/')+1:]
	c := wire.Caller{
		AccountID: s.options.Account, Type: "AssumedRole", PrincipalID: "AROA" + strings.ToUpper(name) + ":" + session,
		ARN: "arn:aws:sts::" + s.options.Account + ":assumed-role/" + name + "/" + session,
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, known := range s.identities {
		if known.RoleARN() == c.RoleARN() {
			c.Allowed = known.Allowed
		}
	}
	return c
}

// assume makes an access key belong to a session of the role.
func (s *Server) assume(arn, session string) (accessKeyID string, c wire.Caller) {
	c = s.session(arn, session)
	accessKeyID = "ASIA" + rand.Text()[:16]
	s.AddIdentity(accessKeyID, c)
	return accessKeyID, c
}

// caller returns who the access key belongs to, seen from the request.
func (s *Server) caller(accessKeyID string, r *http.Request) wire.Caller {
	s.mu.RLock()
	c, ok := s.identities[accessKeyID]
	s.mu.RUnlock()
	if !ok {
		c = s.user(accessKeyID)
	}
	c.SourceIP, _, _ = net.SplitHostPort(r.RemoteAddr)
	c.UserAgent = r.UserAgent()
	return c
}

// user is the IAM user that an access key without an identity belongs to: one
// named after the key, and "local" for no key and for "test", which is what
// people give local clouds.
func (s *Server) user(accessKeyID string) wire.Caller {
	name := accessKeyID
	if name == "" || name == "test" {
		name = "local"
	}
	return wire.Caller{
		AccessKeyID: accessKeyID,
		AccountID:   s.options.Account,
		Type:        "IAMUser",
		ARN:         "arn:aws:iam::" + s.options.Account + ":user/" + name,
		PrincipalID: "AIDA" + strings.ToUpper(name),
		UserName:    name,
	}
}

// credential returns the access key and the service of a request's signature,
// from its Authorization header or its presigned query; both are "" where
// there is none.
func credential(r *http.Request) (accessKeyID, service string) {
	_, scope, ok := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	if ok {
		scope, _, _ = strings.Cut(scope, ",")
	} else if strings.Contains(r.URL.RawQuery, "X-Amz-Credential") {
		scope = r.URL.Query().Get("X-Amz-Credential")
	}
	parts := strings.Split(scope, "/") // key/date/region/service/aws4_request
	if len(parts) < 5 {
		return parts[0], ""
	}
	// An access key may hold slashes, what follows it never does.
	n := len(parts) - 4
	return strings.Join(parts[:n], "/"), parts[n+2]
}
