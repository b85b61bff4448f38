; What `onnxq.numerics.kernel` compiles. Names behind a dollar are constants it fills in: <16 x i32>
; of one number each, `zeros` of rising ones; `rows` is the rows of a block.

; Count blocks up to the first that holds infinite or huge values, or NaN.
;
;   bits    rows of values; those from row `whole` on are in `tail`
;   rows    how many there are in all
;   start   block to begin with
;   counts  by sign and column
;   columns room for those of one block
;   peaks   for the largest key of every block, and of the negatives of its values
;   found   the largest of all peaks, by sign, and the smallest magnitude of a normal value, less
;           that of the smallest one: brought up to date
;
; Returns the first block that was not counted.
define i64 @count(ptr %bits, ptr %tail, i64 %whole, i64 %rows, i64 %start, ptr %counts,
                  ptr %columns, ptr %peaks, ptr %found) {
entry:
  %found.below = getelementptr i32, ptr %found, i64 1
  %found.inner = getelementptr i32, ptr %found, i64 2
  br label %block
block:
  %b = phi i64 [ %start, %entry ], [ %b.next, %add ]
  %first = mul i64 %b, $rows
  %more = icmp ult i64 %first, %rows
  br i1 %more, label %begin, label %done
begin:
  %after = add i64 %first, $rows
  %last = call i64 @llvm.umin.i64(i64 %after, i64 %rows)
  br label %row
row:
  %r = phi i64 [ %first, %begin ], [ %r.next, %row ]
  %high = phi <16 x i32> [ zeroinitializer, %begin ], [ %high.next, %row ]
  %low = phi <16 x i32> [ zeroinitializer, %begin ], [ %low.next, %row ]
  %least = phi <16 x i32> [ $ones, %begin ], [ %least.next, %row ]
  %offset = mul i64 %r, 16
  %inside = getelementptr i32, ptr %bits, i64 %offset
  %is.whole = icmp ult i64 %r, %whole
  %from = select i1 %is.whole, ptr %inside, ptr %tail
  %ahead = getelementptr i32, ptr %inside, i64 $ahead
  call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 2, i32 1)  ; memory is slower than all this
  %v = load <16 x i32>, ptr %from, align 4
  %sign = ashr <16 x i32> %v, $last
  %flip = or <16 x i32> %sign, $minus
  %key = xor <16 x i32> %v, %flip
  %opposite = xor <16 x i32> %key, $ones
  %high.next = call <16 x i32> @llvm.umax.v16i32(<16 x i32> %high, <16 x i32> %key)
  %low.next = call <16 x i32> @llvm.umax.v16i32(<16 x i32> %low, <16 x i32> %opposite)
  %magnitude = and <16 x i32> %v, $plus
  %normal = sub <16 x i32> %magnitude, $tiny  ; zero wraps around
  %least.next = call <16 x i32> @llvm.umin.v16i32(<16 x i32> %least, <16 x i32> %normal)
  %bin = lshr <16 x i32> %magnitude, $shift
  %raised = call <16 x i32> @llvm.umax.v16i32(<16 x i32> %bin, <16 x i32> $zeros)
  %column = sub <16 x i32> %raised, $base
  %side = and <16 x i32> %sign, $width
  %cell = add <16 x i32> %column, %side
  %in.block = sub i64 %r, %first
  %to = getelementptr <16 x i32>, ptr %columns, i64 %in.block
  store <16 x i32> %cell, ptr %to, align 4
  %r.next = add i64 %r, 1
  %more.rows = icmp ult i64 %r.next, %last
  br i1 %more.rows, label %row, label %note
note:
  %above = call i32 @llvm.vector.reduce.umax.v16i32(<16 x i32> %high.next)
  %below = call i32 @llvm.vector.reduce.umax.v16i32(<16 x i32> %low.next)
  %inner = call i32 @llvm.vector.reduce.umin.v16i32(<16 x i32> %least.next)
  %peak = getelementptr [2 x i32], ptr %peaks, i64 %b
  %peak.below = getelementptr i32, ptr %peak, i64 1
  store i32 %above, ptr %peak, align 4
  store i32 %below, ptr %peak.below, align 4
  %outer = call i32 @llvm.umax.i32(i32 %above, i32 %below)
  %ordinary = icmp ult i32 %outer, $huge
  br i1 %ordinary, label %update, label %done
update:
  %above.old = load i32, ptr %found, align 4
  %below.old = load i32, ptr %found.below, align 4
  %inner.old = load i32, ptr %found.inner, align 4
  %above.new = call i32 @llvm.umax.i32(i32 %above, i32 %above.old)
  %below.new = call i32 @llvm.umax.i32(i32 %below, i32 %below.old)
  %inner.new = call i32 @llvm.umin.i32(i32 %inner, i32 %inner.old)
  store i32 %above.new, ptr %found, align 4
  store i32 %below.new, ptr %found.below, align 4
  store i32 %inner.new, ptr %found.inner, align 4
  %size.rows = sub i64 %last, %first
  %size = mul i64 %size.rows, 16
  br label %add
add:
  %i = phi i64 [ 0, %update ], [ %i.next, %add ]
  $increments
  %i.next = add i64 %i, 4
  %more.values = icmp ult i64 %i.next, %size
  %b.next = add i64 %b, 1
  br i1 %more.values, label %add, label %block
done:
  ret i64 %b
}

; Add 16 counts after 16 counts to others, and leave zeros behind.
;
;   counts, sums
;   rows    how many times 16
define i64 @fold(ptr %counts, ptr %sums, i64 %rows) {
entry:
  br label %row
row:
  %r = phi i64 [ 0, %entry ], [ %r.next, %next ]
  %from = getelementptr <16 x i32>, ptr %counts, i64 %r
  %n = load <16 x i32>, ptr %from, align 4
  %seen = icmp ne <16 x i32> %n, zeroinitializer
  %mask = bitcast <16 x i1> %seen to i16
  %any = icmp ne i16 %mask, 0
  br i1 %any, label %add, label %next
add:
  %to = getelementptr <16 x i32>, ptr %sums, i64 %r
  %old = load <16 x i32>, ptr %to, align 4
  %new = add <16 x i32> %old, %n
  store <16 x i32> %new, ptr %to, align 4
  store <16 x i32> zeroinitializer, ptr %from, align 4
  br label %next
next:
  %r.next = add i64 %r, 1
  %more = icmp ult i64 %r.next, %rows
  br i1 %more, label %row, label %done
done:
  ret i64 %r.next
}

; Copy the keys that reach a bound, but those of zeros, odd values and NaN.
;
;   bits, tail, whole, rows, start   as above
;   peaks   of one side, every second
;   bound   what is below is not wanted; at least 1
;   turn    0 for the keys of the values, all ones for those of their negatives
;   held    where to
;   fill    how many are there
;   full    with how many to stop; there is room for one block and one more
;
; Returns the first block that was not looked at.
define i64 @gather(ptr %bits, ptr %tail, i64 %whole, i64 %rows, i64 %start, ptr %peaks,
                   i32 %bound, i32 %turn, ptr %held, ptr %fill, i64 %full) {
entry:
  %keys = alloca <16 x i32>, align 64
  %bounds.0 = insertelement <16 x i32> poison, i32 %bound, i32 0
  %bounds = shufflevector <16 x i32> %bounds.0, <16 x i32> poison, <16 x i32> zeroinitializer
  %turns.0 = insertelement <16 x i32> poison, i32 %turn, i32 0
  %turns = shufflevector <16 x i32> %turns.0, <16 x i32> poison, <16 x i32> zeroinitializer
  %filled = load i64, ptr %fill, align 8
  br label %block
block:
  %b = phi i64 [ %start, %entry ], [ %b.next, %next ]
  %f = phi i64 [ %filled, %entry ], [ %f.block, %next ]
  %first = mul i64 %b, $rows
  %is.more = icmp ult i64 %first, %rows
  %is.room = icmp ult i64 %f, %full
  %more = and i1 %is.more, %is.room
  br i1 %more, label %look, label %done
look:
  %after = add i64 %first, $rows
  %last = call i64 @llvm.umin.i64(i64 %after, i64 %rows)
  %which = getelementptr [2 x i32], ptr %peaks, i64 %b
  %peak = load i32, ptr %which, align 4
  %promising = icmp uge i32 %peak, %bound
  br i1 %promising, label %row, label %next
row:
  %r = phi i64 [ %first, %look ], [ %r.next, %row.end ]
  %f.row = phi i64 [ %f, %look ], [ %f.end, %row.end ]
  %offset = mul i64 %r, 16
  %inside = getelementptr i32, ptr %bits, i64 %offset
  %is.whole = icmp ult i64 %r, %whole
  %from = select i1 %is.whole, ptr %inside, ptr %tail
  %v = load <16 x i32>, ptr %from, align 4
  %sign = ashr <16 x i32> %v, $last
  %flip = or <16 x i32> %sign, $minus
  %key.plain = xor <16 x i32> %v, %flip
  %key = xor <16 x i32> %key.plain, %turns
  %magnitude = and <16 x i32> %v, $plus
  %normal = sub <16 x i32> %magnitude, $tiny  ; zero wraps around
  %ordinary = icmp ult <16 x i32> %normal, $span
  %key.or.0 = select <16 x i1> %ordinary, <16 x i32> %key, <16 x i32> zeroinitializer
  %reach = icmp uge <16 x i32> %key.or.0, %bounds
  %mask = bitcast <16 x i1> %reach to i16
  %any = icmp ne i16 %mask, 0
  store <16 x i32> %key.or.0, ptr %keys, align 64
  br i1 %any, label %copy, label %row.end
copy:
  %i = phi i64 [ 0, %row ], [ %i.next, %copy ]
  %f.copy = phi i64 [ %f.row, %row ], [ %f.next, %copy ]
  %one = getelementptr i32, ptr %keys, i64 %i
  %k = load i32, ptr %one, align 4
  %to = getelementptr i32, ptr %held, i64 %f.copy
  store i32 %k, ptr %to, align 4  ; the next one overwrites it if it is not wanted
  %wanted = icmp uge i32 %k, %bound
  %step = zext i1 %wanted to i64
  %f.next = add i64 %f.copy, %step
  %i.next = add i64 %i, 1
  %more.lanes = icmp ult i64 %i.next, 16
  br i1 %more.lanes, label %copy, label %row.end
row.end:
  %f.end = phi i64 [ %f.row, %row ], [ %f.next, %copy ]
  %r.next = add i64 %r, 1
  %more.rows = icmp ult i64 %r.next, %last
  br i1 %more.rows, label %row, label %next
next:
  %f.block = phi i64 [ %f, %look ], [ %f.end, %row.end ]
  %b.next = add i64 %b, 1
  br label %block
done:
  store i64 %f, ptr %fill, align 8
  ret i64 %b
}

declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare i32 @llvm.umax.i32(i32, i32)
declare i32 @llvm.umin.i32(i32, i32)
declare i64 @llvm.umin.i64(i64, i64)
declare <16 x i32> @llvm.umax.v16i32(<16 x i32>, <16 x i32>)
declare <16 x i32> @llvm.umin.v16i32(<16 x i32>, <16 x i32>)
declare i32 @llvm.vector.reduce.umax.v16i32(<16 x i32>)
declare i32 @llvm.vector.reduce.umin.v16i32(<16 x i32>)
