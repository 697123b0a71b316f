# Who the users of GitLab with these ids are; for `gitlab-rails runner -`. `wanted` (a Hash) is put before this text.
found = User.where(id: wanted['ids']).pluck(:id, :username, :email)
puts "pyinfra-gitlab:#{JSON.generate('users' => found)}"
